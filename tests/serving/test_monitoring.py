"""The Grafana dashboard and the Prometheus alert rules, without Ray; test_haproxy_service.py compares them with it."""

import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from ray.serve import metrics as ray_metrics

from cluster.package import REPOSITORY
from serving.__main__ import main
from serving.web.metrics import ReplicaMetrics

DASHBOARD_FILE = REPOSITORY / "serving/dashboard.json"
DASHBOARD = json.loads(DASHBOARD_FILE.read_text())
ALERTS = REPOSITORY / "serving/alerts.yaml"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
]
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
SERIES = 'application="a",deployment="Classifier",replica="r"'


def list_exported() -> set[str]:
    """Return the names of the classifier's metrics in Prometheus."""
    suffixes = {ray_metrics.Counter: ["_total"], ray_metrics.Gauge: [""], ray_metrics.Histogram: ["_bucket", "_count"]}
    exported = vars(ReplicaMetrics()._exported)
    metrics = [*exported.pop("sums").values(), *exported.values()]
    return {f"ray_{metric.info['name']}{suffix}" for metric in metrics for suffix in suffixes[type(metric)]}


def list_losses(source: Any, written: Any, path: str = "") -> list[str]:
    """Return where a JSON value lacks a part of another one."""
    if isinstance(source, dict) and isinstance(written, dict):
        items = [(source[key], written.get(key), f"{path}.{key}") for key in source]
    elif isinstance(source, list) and isinstance(written, list) and len(source) == len(written):
        items = [(*pair, f"{path}[{index}]") for index, pair in enumerate(zip(source, written, strict=True))]
    else:
        return [] if source == written else [path]
    return [loss for item in items for loss in list_losses(*item)]


@pytest.mark.parametrize("expressions", [EXPRESSIONS, [rule["expr"] for rule in RULES]], ids=["dashboard", "alerts"])
def test_every_metric_is_exported(expressions: list[str]) -> None:
    """Under the name that Ray gives it; those of Ray itself are compared in a test with Ray."""
    names = {name for expression in expressions for name in re.findall(r"ray_classifier_\w+", expression)}
    assert len(names) >= 5
    assert names - list_exported() == set()


def test_grafana_knows_every_field_of_the_dashboard() -> None:
    """Grafana's library of its models reads the file, and writes it again without a loss."""
    register_default_plugins()
    assert list_losses(DASHBOARD, json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD)))) == []


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    """Each has an id of its own, the data source that the user chooses, and the application that they select."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    cells = [
        {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}
        for grid in (panel["gridPos"] for panel in panels)
    ]
    assert all(not first & second for first, second in combinations(cells, 2))
    assert all(x < 24 for panel in cells for x, _ in panel)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    for panel in panels:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for expression in EXPRESSIONS:
        assert set(re.findall(r"\$(\w+)", expression)) <= variables | {"__rate_interval"}
        assert "$application" in expression or "ray_serve_" in expression


def test_commands_print_both_files(capsys: pytest.CaptureFixture[str]) -> None:
    """As they are, for the programs that read them, and as an object with --json."""
    for command, path in (("dashboard", DASHBOARD_FILE), ("alerts", ALERTS)):
        assert main([command]) == 0
        assert capsys.readouterr().out == path.read_text()
        assert main([command, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == yaml.safe_load(path.read_text())


def test_an_alert_says_what_is_wrong_and_what_to_do() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert all(rule["annotations"][name].endswith(".") for name in ("summary", "description"))
        assert rule["alert"] in (REPOSITORY / "docs/guides/monitoring.md").read_text()


def find_alerts(folder: Path, series: dict[str, str], minutes: int = 90) -> set[str]:
    """Return the names of the alerts that are firing after some minutes of series, in the notation of promtool."""
    expectations = [{"eval_time": f"{minutes}m", "alertname": rule["alert"], "exp_alerts": []} for rule in RULES]
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": expectations,
    }
    content = {"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [test]}
    (folder / "test.yaml").write_text(yaml.safe_dump(content))
    result = subprocess.run(
        ["promtool", "test", "rules", str(folder / "test.yaml")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    output = result.stdout + result.stderr
    firing = set(re.findall(r"alertname: ?(\w+)", output))
    assert bool(result.returncode) == bool(firing), output
    return firing


@pytest.mark.slow  # so that `make check` needs no Debian package
@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed: .ci/install-packages")
def test_prometheus_accepts_the_rules(tmp_path: Path) -> None:
    """The expressions of rules and dashboard, and which alerts are raised."""
    expressions = [
        expression.replace("$__rate_interval", "1m").replace("$application", ".*") for expression in EXPRESSIONS
    ]
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(expressions)]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    for path in (ALERTS, tmp_path / "panels.yaml"):
        subprocess.run(["promtool", "check", "rules", str(path)], check=True, timeout=60, capture_output=True)
    healthy = {f"ray_serve_deployment_replica_healthy{{{SERIES}}}": "1x100"}
    distance = f'ray_classifier_distribution_distance{{{SERIES},role="primary",part="length"}}'
    texts = f'ray_classifier_distribution_texts{{{SERIES},role="primary"}}'
    requests = f"ray_classifier_requests_total{{{SERIES},status="
    wait = f"ray_classifier_queue_wait_seconds_bucket{{{SERIES},le="
    tokens, unknown = (
        f'ray_classifier_{name}_total{{{SERIES},checkpoint="c"}}' for name in ("tokens", "unknown_tokens")
    )
    opened = f"ray_classifier_models_opened_total{{{SERIES}}}"
    fired = set()
    for series, alerts in (
        ({}, set()),
        (
            {f'{wait}"{limit}"}}': f"0+{count}x100" for limit, count in ((0.1, 98), (0.5, 100), ("+Inf", 100))},
            {"ClassifierSlow"},
        ),
        ({f'{wait}"{limit}"}}': "0+100x100" for limit in (0.1, 0.5, "+Inf")}, set()),
        ({tokens: "0+100x100", unknown: "0+40x100"}, {"ClassifierUnknownWords"}),
        ({tokens: "0+100x100", unknown: "0+20x100"}, set()),
        ({f"ray_classifier_models_refused{{{SERIES}}}": "1x100"}, {"ClassifierModelRefused"}),
        ({f"ray_classifier_models_refused{{{SERIES}}}": "0x100"}, set()),
        ({opened: "0+10x100"}, {"ClassifierModelsOpenedTooOften"}),
        ({opened: "0+3x100"}, set()),
        ({distance: "0.5x100", texts: "2000x100"}, {"ClassifierTextsChanged"}),
        ({distance: "0.5x100", texts: "200x100"}, set()),
        ({f"ray_classifier_checkpoint_refused{{{SERIES}}}": "1x100"}, {"ClassifierCheckpointRefused"}),
        ({f'{requests}"200"}}': "0+100x100", f'{requests}"503"}}': "0+10x100"}, {"ClassifierErrors"}),
        ({f'{requests}"200"}}': "0+100x100", f'{requests}"422"}}': "0+10x100"}, set()),
    ):
        assert find_alerts(tmp_path, healthy | series) == alerts
        fired |= alerts
    assert find_alerts(tmp_path, {}) == {"ClassifierWithoutReplicas"}
    assert {rule["alert"] for rule in RULES} == fired | {"ClassifierWithoutReplicas"}
