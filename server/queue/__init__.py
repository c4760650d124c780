"""The durable queue: put -> IN_QUEUE -> claim -> IN_PROGRESS -> finish -> COMPLETED, and rescue back. The only SQL."""
