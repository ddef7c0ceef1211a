"""From a plan to the files that deploy it.

| name | what |
|---|---|
| `write_deployment` | scripts, manifests and a README for one target |
| `ENGINES` | serving engines: a pool to flags, and flags back to a layout |
| `InexpressibleError` | a plan asks for what its target cannot be told |
"""

from planner.deploy.write import ENGINES, InexpressibleError, deployment, write_deployment

__all__ = ["ENGINES", "InexpressibleError", "deployment", "write_deployment"]
