"""What the demo and runs over single corpora say when they are done; text only, no printing."""

import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from ml.artifacts import DataLayout
from ml.settings import Settings
from pipelines.execute import Outcome


def conclusion(
    settings: Settings,
    corpora: Iterable[str],
    timed: Sequence[tuple[str, float]],
    *,
    query: str | None = None,
) -> str:
    """Say scores, what to look at next, and how long each stage took.

    Args:
        settings: of the home.
        corpora: whose scores to show.
        timed: name and elapsed seconds of each stage.
        query: a command that shows what queries do.
    """
    parts = [scores_text(settings.layout, corpora), next_text(settings, query=query)]
    return "\n\n".join(["", *(part for part in parts if part), times_text(timed)])


def scores_text(layout: DataLayout, corpora: Iterable[str]) -> str:
    """Write the score table of each corpus that has scores."""
    from ml.retrieval.evaluation.evaluate import EVALUATION
    from ml.scores.files import read_scores
    from ml.scores.intervals import INTERVALS_SAID
    from ml.scores.text import table_lines

    tables = []
    for corpus in corpora:
        rows = read_scores(layout, evaluation=EVALUATION, corpus=corpus)
        if rows:
            tables.append("\n".join(table_lines(f"{EVALUATION}: {corpus}", rows)))
    return "\n\n".join([*tables, INTERVALS_SAID] if tables else [])


def next_text(settings: Settings, *, query: str | None) -> str:
    """Say what to look at next, ready to paste."""
    layout = settings.layout
    home = f" STEMS_HOME={shlex.quote(str(settings.home))}"
    if settings.home == (Path.cwd() / "data").resolve():
        home = ""
    rows = {
        str(layout.reports / "index.html"): "the report, for a browser",
        f"make dev{home}": "assets, runs and checks in Dagster, http://127.0.0.1:3000",
        f"make mlflow{home}": "training runs in MLflow, http://127.0.0.1:5000",
    }
    width = max(map(len, rows))
    lines = [f"  {what:<{width}}  {why}" for what, why in rows.items()]
    asked = ["Ask for the stem that a mix lacks:", f"  {query}"] if query else []
    return "\n".join(["What to look at next:", *lines, *asked])


def example_query(settings: Settings, corpus: str) -> str | None:
    """Make a mix, and the command that asks for the stem that it lacks.

    The mix is the first held-out song with a labelled stem, without that stem. None where the
    corpus has no such song or nothing can be queried yet.
    """
    from ml.training.models import champion_path

    layout = settings.layout
    if not champion_path(layout).is_file():
        return None
    asked = _mix_without_a_stem(layout, corpus)
    if asked is None:
        return None
    mix, instrument = asked
    stems = Path(sys.executable).with_name("stems")
    program = str(stems) if stems.exists() else shutil.which("stems") or "stems"
    if Path(program).is_relative_to(Path.cwd()):
        program = str(Path(program).relative_to(Path.cwd()))
    words = [program, "--home", str(settings.home), "query", str(mix), "--instrument", instrument]
    return shlex.join(words)


def times_text(timed: Sequence[tuple[str, float]]) -> str:
    """Say the elapsed time of each stage and in all."""
    rows = [*timed, ("in all", sum(elapsed_s for _, elapsed_s in timed))]
    width = max(len(name) for name, _ in rows)
    return "\n".join(["Elapsed:", *(f"  {name:<{width}}  {t:7.1f} s" for name, t in rows)])


def scored_corpora(outcomes: Iterable[Outcome]) -> list[str]:
    """List the corpora that were scored."""
    done = (outcome for outcome in outcomes if outcome.status == "done")
    scored = (o.step.partition for o in done if "retrieval_scores" in o.step.assets)
    return [name for name in scored if name is not None]


def step_times(outcomes: Iterable[Outcome]) -> list[tuple[str, float]]:
    """List name and elapsed seconds of the steps that ran."""
    return [(o.step.name, o.elapsed_s) for o in outcomes if o.status != "left out"]


def _mix_without_a_stem(layout: DataLayout, corpus: str) -> tuple[Path, str] | None:
    import soundfile

    from ml.artifacts import write_aside
    from ml.audio.files import mix_parts, read_stem
    from ml.corpora.table import read_corpus_tracks, tracks_of_table

    rate_hz = 16000
    for track in tracks_of_table(read_corpus_tracks(layout, corpus)):
        asked = next((stem for stem in track.stems if stem.labels), None)
        if track.split != "test" or asked is None or len(track.stems) < 2:
            continue
        others = [read_stem(s, rate_hz) for s in track.stems if s.stem_id != asked.stem_id]
        name = f"{track.track_id}-without-{asked.label.replace(' ', '-')}.wav"
        path = layout.home / "examples" / name
        with write_aside(path) as aside:
            mix = mix_parts(others)
            soundfile.write(aside, mix, rate_hz, format="WAV", subtype="FLOAT")
        return path, asked.label
    return None
