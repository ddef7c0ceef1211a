"""Plans on pages of HTML that hold all they need.

| name | what |
|---|---|
| `charts` | a plan's figures |
| `tables` | a plan's tables |
| `report` | a plan's page |
| `pages` | what a command prints, as a page; templates and what they share |
| `explore`, `app` | the page of `planner ui` |
"""
