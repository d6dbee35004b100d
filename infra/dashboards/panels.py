"""What a dashboard is written in: rows of panels, each a title, a unit and the expressions that it draws.

The panels become objects of Grafana's own library, `grafana-foundation-sdk`, so a field that Grafana does not know does
not get into the files. Data sources go by the uids that charts/observability/files/grafana/datasources.yaml gives them.
"""

from collections.abc import Iterator, Sequence
from itertools import batched, count, groupby
from typing import Any, Literal, NamedTuple, Self

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders.common import VizLegendOptions, VizTooltipOptions
from grafana_foundation_sdk.builders.dashboard import Dashboard, QueryVariable, Row, ThresholdsConfig
from grafana_foundation_sdk.builders.logs import Panel as LogsPanel
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as StatPanel
from grafana_foundation_sdk.builders.timeseries import Panel as TimeseriesPanel
from grafana_foundation_sdk.cog import variants
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    DataSourceRef,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    GridPos,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
)

PROMETHEUS = DataSourceRef(type_val="prometheus", uid="prometheus")
VICTORIALOGS = DataSourceRef(type_val="victoriametrics-logs-datasource", uid="victorialogs")

_PAGE = 24
"""Columns of Grafana's grid."""
WIDTH, HEIGHT = 6, 7
"""Of a panel, in columns and lines of it."""


class Panel(NamedTuple):
    """`queries` are pairs of an expression and how its series are called: `("sum(up)", "{{service}}")`.

    `$service` in an expression is what the reader has chosen, `$__rate_interval` at least four scrapes.
    """

    title: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    shape: Literal["line", "stack", "value"] = "line"
    description: str = ""
    limit: float | None = None
    """From where on a value is red: an alert's threshold, or an objective."""
    is_floor: bool = False
    """Whether it is red below its limit instead."""


class Logs(NamedTuple):
    """Lines, by a query in LogsQL."""

    title: str
    query: str
    description: str = ""


type Rows = dict[str, Sequence[Panel | Logs]]


def dashboard(uid: str, title: str, description: str, rows: Rows) -> Dashboard:
    built = (
        Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["holdfast"])
        .readonly()
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(
            QueryVariable("service")
            .label("Service")
            .datasource(PROMETHEUS)
            .query('label_values(up{role!=""}, service)')
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(VariableOption(text="All", value="$__all"))
        )
    )
    ids = count(1)
    y = 0
    for name, panels in rows.items():
        built = built.with_row(Row(name).id(next(ids)).grid_pos(GridPos(h=1, w=_PAGE, x=0, y=y)))
        y += 1
        for line in _lines_of(panels):
            for place, panel in enumerate(line):
                drawn = _logs(panel) if isinstance(panel, Logs) else _panel(panel)
                width = _PAGE if isinstance(panel, Logs) else WIDTH
                built = built.with_panel(drawn.id(next(ids)).grid_pos(GridPos(h=HEIGHT, w=width, x=place * WIDTH, y=y)))
            y += HEIGHT
    return built


def _lines_of(panels: Sequence[Panel | Logs]) -> Iterator[Sequence[Panel | Logs]]:
    """As many panels as fit beside each other; lines of a log have a line of their own."""
    for is_wide, some in groupby(panels, key=lambda panel: isinstance(panel, Logs)):
        yield from batched(some, 1 if is_wide else _PAGE // WIDTH, strict=False)


def _panel(panel: Panel) -> Any:
    built: Any = _value() if panel.shape == "value" else _lines(is_stacked=panel.shape == "stack")
    built = (
        built.title(panel.title)
        .description(panel.description)
        .datasource(PROMETHEUS)
        .unit(panel.unit)
        .thresholds(_thresholds(panel))
    )
    for letter, (expression, legend) in zip("ABCDEF", panel.queries, strict=False):
        query = Dataquery().expr(expression).legend_format(legend).ref_id(letter).datasource(PROMETHEUS)
        built = built.with_target(query.instant() if panel.shape == "value" else query.range())
    return built


def _value() -> StatPanel:
    return StatPanel().graph_mode(BigValueGraphMode.NONE)


def _lines(*, is_stacked: bool) -> TimeseriesPanel:
    built = (
        TimeseriesPanel()
        .min(0)
        .show_points(VisibilityMode.NEVER)
        .fill_opacity(40 if is_stacked else 5)
        .legend(
            VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM).show_legend(True)
        )
        .tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    )
    return built.stacking(common_builders.StackingConfig().mode(StackingMode.NORMAL)) if is_stacked else built


def _thresholds(panel: Panel) -> ThresholdsConfig:
    below, above = ("red", "green") if panel.is_floor else ("green", "red")
    steps = [Threshold(value=None, color="green" if panel.limit is None else below)]
    if panel.limit is not None:
        steps.append(Threshold(value=panel.limit, color=above))
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


class _LogsQuery(variants.Dataquery):
    """What the data source plugin of VictoriaLogs takes; the library knows Grafana's own queries only."""

    def __init__(self, expression: str) -> None:
        self.expression = expression

    def to_json(self) -> dict[str, object]:
        return {"refId": "A", "expr": self.expression, "queryType": "instant", "datasource": VICTORIALOGS}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(data["expr"])


class _LogsQueryBuilder(Builder[_LogsQuery]):
    def __init__(self, expression: str) -> None:
        self._built = _LogsQuery(expression)

    def build(self) -> _LogsQuery:
        return self._built


def _logs(panel: Logs) -> LogsPanel:
    return (
        LogsPanel()
        .title(panel.title)
        .description(panel.description)
        .datasource(VICTORIALOGS)
        .with_target(_LogsQueryBuilder(panel.query))
    )
