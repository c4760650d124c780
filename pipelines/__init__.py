"""The models: what is computed. Knows no HTTP, no queue, no download, no environment."""

import os

# onnxruntime's Linux wheels report to their maker from the first session on. The library reads this variable when it
# is loaded; its own switch, disable_telemetry_events, does not stop the reports (decision 0032).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # noqa: TID251
