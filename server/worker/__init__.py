"""The process that runs jobs. While some are generated, the next are prepared and the ones before saved."""
