"""The Job of load: Locust takes its arguments, finds its keys, and another run is another Job."""

import asyncio
import re
import sys
from pathlib import Path

import pytest
from holdfast_local.ports import free_port
from holdfast_local.settings import PROJECT
from pod_files import files_of
from rendering import HOLDFAST, Rendering, Workload, merge, nested, render, values_of

LOCUST = Path(sys.executable).with_name("locust")
ON = nested("load.enabled", value=True)


def job(rendering: Rendering) -> Workload:
    [found] = [it for it in rendering.workloads if it.name.startswith("Job/holdfast-load-")]
    return found


@pytest.mark.parametrize("scenario", ["steady", "webhook_storm", "provider_outage", "abuse"])
async def test_locust_takes_the_jobs_arguments_and_finds_what_the_scenario_needs(tmp_path: Path, scenario: str):
    """Nobody listens where it asks here: it ends with a verdict, and not with what it misses."""
    more = merge(nested("load.scenario", value=scenario), nested("load.seconds", value=1))
    rendering = render(HOLDFAST, merge(ON, merge(more, nested("load.rate", value=20))))
    workload = job(rendering)
    [container] = workload.containers
    assert container["command"] == ["locust"]
    for path, content in files_of(rendering, workload, container).items():
        file = tmp_path / path.relative_to("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    nowhere = f"http://127.0.0.1:{free_port()}"
    arguments = [
        re.sub(r"http://holdfast-[a-z-]+:\d+", nowhere, argument).replace("/run/", f"{tmp_path}/run/")
        for argument in container["args"]
    ]
    process = await asyncio.create_subprocess_exec(
        LOCUST, *arguments, cwd=PROJECT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 1, output.decode()
    assert "✘ violated" in output.decode()
    assert "is not on this machine" not in output.decode()


def test_what_the_values_say_of_a_run_reaches_locust():
    for name, value in {"scenario": "burst", "seed": 7, "rate": 0.5, "seconds": 90}.items():
        [container] = job(render(HOLDFAST, merge(ON, nested(f"load.{name}", value=value)))).containers
        assert f"--{name}={value}" in container["args"]


def test_another_run_is_another_job_and_the_same_is_the_same():
    first, again = job(render(HOLDFAST, ON)), job(render(HOLDFAST, ON, revision=2))
    assert first.name == again.name
    assert job(render(HOLDFAST, merge(ON, nested("load.seed", value=2)))).name != first.name


def test_a_violated_limit_is_not_tried_again():
    rendering = render(HOLDFAST, ON)
    [found] = [it for it in rendering.of_kind("Job") if it["metadata"]["name"].startswith("holdfast-load-")]
    assert found["spec"]["backoffLimit"] == 0


def test_where_orders_cost_money_there_is_no_load():
    others = merge(
        nested("simulators.enabled", value=False),
        nested("services.payments.config.provider.base_url", value="https://provider.example.com"),
        nested("services.notifications.config.smtp.host", value="mail.example.com"),
    )
    for values in (values_of(HOLDFAST, "values-prod.yaml"), others):
        rendering = render(HOLDFAST, merge(values, ON))
        assert [it.name for it in rendering.workloads if "-load-" in it.name] == []
