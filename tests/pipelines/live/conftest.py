"""Dagster through GraphQL, as its own pages use it.

https://docs.dagster.io/api/graphql
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest

DEADLINE_S = 300
"""Bounds a hang; nothing is expected to take this long."""
REPOSITORY = {"repositoryLocationName": "stems", "repositoryName": "__repository__"}
ENDED = ("SUCCESS", "FAILURE", "CANCELED")


def paths(assets: Sequence[str]) -> list[dict[str, list[str]]]:
    return [{"path": [name]} for name in assets]


class Dagster:
    """What its UI asks and orders."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.Client(base_url=url, timeout=DEADLINE_S)

    def ask(self, query: str, **variables: Any) -> Any:
        """The value of the one field of a query."""
        asked = {"query": query, "variables": variables}
        answer = self._client.post("/graphql", json=asked).json()
        assert "errors" not in answer, answer
        (value,) = answer["data"].values()
        assert not isinstance(value, dict) or value.get("__typename") != "PythonError", value
        return value

    @staticmethod
    def until(found: Callable[[], Any], what: str) -> Any:
        """The first value that is true."""
        deadline = time.monotonic() + DEADLINE_S
        while not (value := found()):
            assert time.monotonic() < deadline, f"it did not come: {what}"
            time.sleep(0.2)
        return value

    def launch(
        self, job: str, assets: Sequence[str], partition: str = "", config: Any = None
    ) -> str:
        """Materialize assets; returns the run's id."""
        tags = [{"key": "dagster/partition", "value": partition}] if partition else []
        chosen = {"pipelineName": job, "assetSelection": paths(assets)}
        made = self.ask(
            "mutation($p: ExecutionParams!) {launchRun(executionParams: $p) {__typename "
            "... on LaunchRunSuccess {run {runId}} ... on PythonError {message} "
            "... on RunConfigValidationInvalid {errors {message}}}}",
            p={
                "selector": {**REPOSITORY, **chosen},
                "runConfigData": config or {},
                "mode": "default",
                "executionMetadata": {"tags": tags},
            },
        )
        return made["run"]["runId"]

    def reexecute(self, run_id: str) -> str:
        """Launch a run once more; returns the new run's id."""
        made = self.ask(
            "mutation($p: ReexecutionParams!) {launchRunReexecution(reexecutionParams: $p) "
            "{__typename ... on LaunchRunSuccess {run {runId}} ... on PythonError {message}}}",
            p={"parentRunId": run_id, "strategy": "ALL_STEPS"},
        )
        return made["run"]["runId"]

    def terminate(self, run_id: str) -> None:
        """Cancel a run, or find that it is over."""
        self.ask(
            "mutation($r: String!) {terminateRun(runId: $r, terminatePolicy: SAFE_TERMINATE) "
            "{__typename ... on PythonError {message}}}",
            r=run_id,
        )

    def ended(self, run_id: str) -> str:
        """The status of a run, when it is over."""
        query = "query($r: ID!) {runOrError(runId: $r) {... on Run {status}}}"

        def over() -> str:
            status = self.ask(query, r=run_id)["status"]
            return status if status in ENDED else ""

        return self.until(over, f"the end of run {run_id}")

    def succeeded(self, *run_ids: str) -> None:
        """Wait for runs, and say why if one of them has failed."""
        for run_id in run_ids:
            assert self.ended(run_id) == "SUCCESS", self.failures(run_id)

    def failures(self, run_id: str) -> list[Any]:
        """What a run says of its failure."""
        query = (
            "query($r: ID!) {logsForRun(runId: $r) {... on EventConnection {events {"
            "... on ExecutionStepFailureEvent {stepKey error {message cause {message}}} "
            "... on RunFailureEvent {message}}}}}"
        )
        return [event for event in self.ask(query, r=run_id)["events"] if event]

    def backfill(self, assets: Sequence[str], partitions: Sequence[str]) -> str:
        """Materialize assets of partitions, a run each; returns the backfill's id."""
        made = self.ask(
            "mutation($p: LaunchBackfillParams!) {launchPartitionBackfill(backfillParams: $p) "
            "{__typename ... on LaunchBackfillSuccess {backfillId} ... on PythonError {message}}}",
            p={"assetSelection": paths(assets), "partitionNames": list(partitions)},
        )
        return made["backfillId"]

    def backfilled(self, backfill_id: str) -> dict[str, Any]:
        """Status and runs of a backfill."""
        query = (
            "query($b: String!) {partitionBackfillOrError(backfillId: $b) {"
            "... on PartitionBackfill {status runs(limit: 10) {runId}}}}"
        )
        return self.ask(query, b=backfill_id)

    def partition(self, run_id: str) -> str:
        """Which one a run is of."""
        query = "query($r: ID!) {runOrError(runId: $r) {... on Run {tags {key value}}}}"
        tags = {tag["key"]: tag["value"] for tag in self.ask(query, r=run_id)["tags"]}
        return tags["dagster/partition"]

    def versions(self, asset: str) -> dict[str, str]:
        """Data version of each partition of an asset."""
        query = (
            "query($k: [AssetKeyInput!]) {assetNodes(assetKeys: $k) {"
            "assetMaterializations {partition tags {key value}} "
            "assetObservations {partition tags {key value}}}}"
        )
        (node,) = self.ask(query, k=paths([asset]))
        return {
            made["partition"]: tag["value"]
            for made in reversed(node["assetMaterializations"] or node["assetObservations"])
            for tag in made["tags"]
            if tag["key"] == "dagster/data_version"
        }

    def lacking(self) -> list[str]:
        """Assets that were never made, and checks that were never executed.

        Not those without one of the latest materialization: runs of two corpora at once make and
        check in turn, and the latest check need not be of what was made last.
        """
        nodes = self.ask(
            "{assetNodes {assetKey {path} isObservable assetMaterializations(limit: 1) {runId} "
            "assetChecksOrError {... on AssetChecks {checks {name assetKey {path}}}}}}"
        )
        checks = [check for node in nodes for check in node["assetChecksOrError"]["checks"]]
        assert nodes
        assert checks
        assets = [
            node["assetKey"]["path"][0]
            for node in nodes
            if not (node["isObservable"] or node["assetMaterializations"])
        ]
        return assets + [check["name"] for check in checks if not self._executions(check)]

    def _executions(self, check: dict[str, Any]) -> Sequence[Any]:
        query = (
            "query($k: AssetKeyInput!, $n: String!) {"
            "assetCheckExecutions(assetKey: $k, checkName: $n, limit: 1) {runId}}"
        )
        return self.ask(query, k=check["assetKey"], n=check["name"])

    def state(self, kind: str, name: str) -> dict[str, Any]:
        """Of a Sensor or a Schedule: whether it is on, and its ticks, the newest first."""
        low = kind.lower()
        found = self.ask(
            f"query($s: {kind}Selector!) {{{low}OrError({low}Selector: $s) {{__typename "
            f"... on {kind} {{{low}State {{id status ticks(limit: 5) {{id status runIds error "
            "{message}}}}}}",
            s=self._selector(kind, name),
        )
        return found[f"{low}State"]

    def turn_on(self, kind: str, name: str) -> None:
        """What the switch of a Sensor or a Schedule does."""
        self.ask(
            f"mutation($s: {kind}Selector!) {{start{kind}({kind.lower()}Selector: $s) "
            "{__typename ... on PythonError {message}}}",
            s=self._selector(kind, name),
        )
        assert self.state(kind, name)["status"] == "RUNNING"

    def turn_off(self, kind: str, name: str) -> None:
        """Likewise."""
        order = {"Sensor": "stopSensor", "Schedule": "stopRunningSchedule"}[kind]
        self.ask(
            f"mutation($id: String!) {{{order}(id: $id) "
            "{__typename ... on PythonError {message}}}",
            id=self.state(kind, name)["id"],
        )
        assert self.state(kind, name)["status"] == "STOPPED"

    def first_run_of_sensor(self, name: str, cursor: str) -> str:
        """Set its cursor, turn it on, and off when it has ticked; returns the run it asked for."""
        self.ask(
            "mutation($s: SensorSelector!, $c: String) "
            "{setSensorCursor(sensorSelector: $s, cursor: $c) "
            "{__typename ... on PythonError {message}}}",
            s=self._selector("Sensor", name),
            c=cursor,
        )
        before = {tick["id"] for tick in self.state("Sensor", name)["ticks"]}
        self.turn_on("Sensor", name)

        def ticked() -> Any:
            ticks = self.state("Sensor", name)["ticks"]
            new = (tick for tick in ticks if tick["id"] not in before)
            return next((tick for tick in new if tick["status"] != "STARTED"), None)

        tick = self.until(ticked, f"a tick of {name}")
        self.turn_off("Sensor", name)
        assert tick["status"] == "SUCCESS", tick
        (run_id,) = tick["runIds"]
        return run_id

    def tick(self, kind: str, name: str, **given: Any) -> dict[str, Any]:
        """Evaluate a Sensor (of a cursor) or a Schedule (at a timestamp), and launch nothing."""
        argument, of_type = {"Sensor": ("cursor", "String"), "Schedule": ("timestamp", "Float")}[
            kind
        ]
        ticked = self.ask(
            f"mutation($s: {kind}Selector!, $v: {of_type}) "
            f"{{{kind.lower()}DryRun(selectorData: $s, {argument}: $v) "
            "{__typename ... on PythonError {message} "
            "... on DryRunInstigationTick {evaluationResult {cursor skipReason "
            "error {message} runRequests {jobName runKey tags {key value}}}}}}",
            s=self._selector(kind, name),
            v=given.get(argument),
        )
        assert ticked["evaluationResult"]["error"] is None, ticked
        return ticked["evaluationResult"]

    def _selector(self, kind: str, name: str) -> dict[str, str]:
        return {**REPOSITORY, f"{kind.lower()}Name": name}


@pytest.fixture(scope="module")
def open_dagster() -> Callable[[str], Dagster]:
    """From the URL of a running one."""
    return Dagster
