"""Plans on pages of HTML that hold all they need.

| name | what |
|---|---|
| `charts` | a plan's figures |
| `report` | a plan's page |
"""
