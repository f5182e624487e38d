"""`snakemake publish`: the small results in a bucket, through Snakemake's storage plugin, against a real server."""

import importlib.util
import os
from pathlib import Path

import pytest

from conffusion.config import load_config
from conffusion.pipeline.plan import Plan
from tests.clusters.test_two_nodes import SMALL
from tests.moto import PLUGIN, empty_bucket, environment, moto_server
from tests.test_workflow_end_to_end import TASK, set_up

pytestmark = pytest.mark.system


def test_small_results_are_copied_and_nothing_is_copied_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("snakemake_storage_plugin_s3") is None:
        if not PLUGIN.is_dir():
            pytest.skip("no storage plugin for S3: make .venv-moto/.set-up, or install the extra publish")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PLUGIN), *filter(None, [os.environ.get("PYTHONPATH")])]))
    with moto_server(tmp_path / "moto.log") as server:
        empty_bucket(server)
        # the plugin asks the command line or these; boto3 the same as other clients
        for name, value in environment(server).items() | {("SNAKEMAKE_STORAGE_S3_ENDPOINT_URL", server)}:
            monkeypatch.setenv(name, value)
        root = tmp_path / "workflow"
        root.mkdir()
        workflow = set_up(root, [TASK], ["resnext"], SMALL)
        changes = {"report": {"publish_url": "s3://bucket/prefix"}}
        first = workflow.snakemake("publish", **changes)
        assert first.code == 0, first.text[-4000:]
        import obstore
        from obstore.store import S3Store

        store = S3Store.from_url("s3://bucket", client_options={"allow_http": True})
        found = {entry["path"]: entry["size"] for entry in obstore.list(store).collect()}
        plan = Plan(load_config(workflow.run / "config.yaml"))
        assert set(found) == {f"prefix/{plan.run}/{file}" for file in plan.published}
        for file in plan.published:
            assert found[f"prefix/{plan.run}/{file}"] == (workflow.run / file).stat().st_size
        assert (
            workflow.snakemake("publish", **changes).code == 0
        )  # S3 counts seconds: what came in the last one goes again
        idle = workflow.snakemake("publish", **changes)
        assert idle.code == 0 and "Nothing to be done" in idle.text
