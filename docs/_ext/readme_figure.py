"""Draw the README's figure: what a dollar serves at every TTIT, for the example of its answer.

`python docs/_ext/readme_figure.py` writes `docs/_static/text_agent_front.svg`.
"""

from __future__ import annotations

from pathlib import Path

from planner import load_query, solve
from planner.figures import titled, write_figure
from planner.web.charts import front_chart, place
from planner.web.report import fronts_of

ROOT = Path(__file__).resolve().parents[2]
QUERY = ROOT / "examples" / "text_agent_llama3_70b.yaml"
FIGURE = ROOT / "docs" / "_static" / "text_agent_front.svg"


def main() -> None:
    """Search to beyond the targets, and draw the fronts beside the plan."""
    query = load_query(QUERY)
    plan = solve(query).to_dict()
    target = query.slo.ttit
    assert target is not None
    rows = fronts_of(query)["ttit"]
    chart = front_chart(rows, "ttit", (target.seconds, target.statistic), place(plan, "ttit"))
    write_figure(titled(chart.properties(width=560), "What a dollar serves"), FIGURE)


if __name__ == "__main__":
    main()
