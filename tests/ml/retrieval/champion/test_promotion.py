from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import lancedb
import pytest

import ml.retrieval.champion.promotion as promotion
from ml import kinds
from ml.artifacts import ArtifactError
from ml.cli.main import main as stems
from ml.retrieval.champion.champion import ChampionChangedError, replace_champion, successor
from ml.retrieval.champion.promotion import judge, promote, promotion_rule, roll_back
from ml.retrieval.embeddings.build import embed_corpus
from ml.retrieval.tables.inspect import gallery_gaps
from ml.retrieval.tables.publish import STEM_TABLE, database_uri, publish_corpus
from ml.settings import Settings, load_settings
from ml.training.models import (
    champion_path,
    current_champion,
    find_checkpoint,
    find_model,
    read_champion,
)


@pytest.fixture
def home(promotable: Settings) -> Settings:
    return promotable


def test_first_champion_is_compared_with_nobody(home: Settings):
    done = promote(home)
    assert (done.outcome, done.comparisons) == ("promoted", ())
    champion = read_champion(home.layout)
    assert (champion.model_id, champion.previous) == ("id-good", None)
    assert champion.checkpoint == "runs/good/model"
    again = promote(home)
    assert again.outcome == "champion already"
    assert again.champion == champion


def test_a_home_keeps_the_shipped_model_that_it_depends_on(home: Settings, tmp_path, monkeypatch):
    shipped = tmp_path / "package" / "model"
    shipped.parent.mkdir()
    find_checkpoint(home.layout, "good").rename(shipped)
    monkeypatch.setattr(kinds, "SHIPPED", shipped)
    assert promote(home, "starter").outcome == "promoted"
    monkeypatch.setattr(kinds, "SHIPPED", tmp_path / "the next version brings another")
    assert read_champion(home.layout).checkpoint == "runs/starter-id-good/model"
    assert find_model(home.layout).model_id == "id-good"


def test_worse_is_refused_and_says_why_and_equal_is_promoted(home: Settings):
    promote(home, "good")
    refused = promote(home, "bad")
    assert refused.outcome == "refused"
    assert "recall@10 on songs is" in refused.reason
    assert "the champion's 100.0" in refused.reason
    assert read_champion(home.layout).model_id == "id-good"
    equal = promote(home, "twin")
    assert equal.outcome == "promoted"
    assert [found.corpus for found in equal.comparisons] == ["songs"]
    champion = read_champion(home.layout)
    assert (champion.model_id, champion.previous) == ("id-twin", "id-good")


def test_better_is_promoted_by_a_metric_where_lower_is_better(home: Settings):
    chosen = load_settings(home.home, {"promotion": {"metric": "normalized_rank_mean"}})
    promote(chosen, "bad")
    assert promote(chosen, "good").outcome == "promoted"
    refused = promote(chosen, "bad")
    assert refused.outcome == "refused"
    assert "normalized_rank_mean on songs" in refused.reason


def test_tolerance_lets_pass_what_it_covers(home: Settings):
    promote(home, "good")
    lenient = load_settings(home.home, {"promotion": {"tolerance": 100.0}})
    assert promote(lenient, "bad").outcome == "promoted"


def test_force_compares_with_nobody_and_dry_run_writes_nothing(home: Settings):
    promote(home, "good")
    before = champion_path(home.layout).read_bytes()
    planned = promote(home, "bad", is_forced=True, is_dry_run=True)
    assert planned.outcome == "promoted"
    assert champion_path(home.layout).read_bytes() == before
    assert promote(home, "bad", is_forced=True).outcome == "promoted"
    assert read_champion(home.layout).model_id == "id-bad"


def test_gallery_must_be_complete(home: Settings, write_corpus: Any, make_sine: Any):
    """Not even by force: queries would find less than there is."""
    promote(home, "good")
    _drop_a_row(home)
    refused = promote(home, "twin", is_forced=True)
    assert refused.outcome == "refused"
    assert "gallery incomplete: stem_embeddings holds 19 of 20 rows of songs" in refused.reason
    more = load_settings(home.home, {"promotion": {"gallery": ["more"]}})
    reason = promote(more, "twin", is_forced=True).reason
    assert "more is not embedded" in reason
    assert "stems embed more --models twin" in reason
    write_corpus("songs", {"other": {"bass": ("bass", make_sine(3, 1.0))}})
    refused = promote(home, "twin", is_forced=True)
    assert "songs has changed since it was embedded" in refused.reason
    assert read_champion(home.layout).model_id == "id-good"


def test_embeddings_that_were_not_published_do_not_count(
    home: Settings, band_model: Any, label_vectors: Any, write_checkpoint: Any
):
    layout = home.layout
    embed_corpus("songs", [band_model("next")], layout, label_vectors)
    write_checkpoint(layout, "next")
    assert gallery_gaps(layout, "id-next", ["songs"]) == ["songs is not published"]
    publish_corpus(layout, "id-next", "songs")
    assert gallery_gaps(layout, "id-next", ["songs"]) == []
    embed_corpus("songs", [band_model("next")], layout, label_vectors, precision="fp32")
    assert gallery_gaps(layout, "id-next", ["songs"]) == ["songs is published as it was before"]


def _drop_a_row(home: Settings) -> None:
    uri = database_uri(home.layout, "id-twin")
    lancedb.connect(uri).open_table(STEM_TABLE).delete("stem_id = 'song0/bass'")


def test_queries_of_seen_tracks_decide_nothing(home: Settings, write_checkpoint: Any):
    """A candidate that was trained on the evaluation set is compared on what is left of it."""
    promote(home, "good")
    trained_on = [{"corpus": "songs", "track_id": f"song{i}", "content_hash": []} for i in range(8)]
    write_checkpoint(home.layout, "twin", training_tracks=trained_on)
    candidate = promotion.find_model(home.layout, "twin", home.tracking_uri)
    judged = judge(home, candidate, current_champion(home.layout), promotion_rule(home))
    assert judged.outcome == "promoted"
    assert (judged.comparisons[0].n_queries, judged.comparisons[0].n_seen) == (4, 16)
    trained_on += [{"corpus": "songs", "track_id": f"song{i}"} for i in (8, 9)]
    write_checkpoint(home.layout, "twin", training_tracks=trained_on)
    refused = promote(home, "twin")
    assert refused.outcome == "refused"
    assert "neither has seen" in refused.reason
    named = load_settings(home.home, {"promotion": {"corpora": ["songs"]}})
    assert "was trained on every track of songs" in promote(named, "twin").reason


def test_one_of_two_promoters_wins_and_the_other_judges_again(
    home: Settings, monkeypatch: pytest.MonkeyPatch
):
    promote(home, "bad")
    compared, judged_against = promotion.judge, []

    def judge_while_another_promotes(settings: Settings, candidate: Any, before: Any, *args, **kw):
        judged_against.append(before.model_id)
        found = compared(settings, candidate, before, *args, **kw)
        if len(judged_against) == 1:
            other = successor(home.layout, before, "id-good", home.layout.runs / "good" / "model")
            replace_champion(home.layout, before, other)
        return found

    monkeypatch.setattr(promotion, "judge", judge_while_another_promotes)
    done = promote(home, "twin")
    assert judged_against == ["id-bad", "id-good"]
    assert done.outcome == "promoted"
    champion = read_champion(home.layout)
    assert (champion.model_id, champion.previous) == ("id-twin", "id-good")


def test_replacing_who_is_no_longer_champion_is_refused(home: Settings):
    promote(home, "good")
    stale = read_champion(home.layout)
    promote(home, "twin")
    after = successor(home.layout, stale, "id-bad", home.layout.runs / "bad" / "model")
    with pytest.raises(ChampionChangedError, match=r"id-twin, where id-good was expected"):
        replace_champion(home.layout, stale, after)
    assert read_champion(home.layout).model_id == "id-twin"


def test_many_promoters_at_once_leave_a_whole_history(home: Settings):
    """Each replacement names who was champion before it: none was lost."""
    promote(home, "good")
    seen: list[tuple[str | None, str]] = []

    def replace_often(name: str) -> None:
        for _ in range(20):
            while True:
                before = read_champion(home.layout)
                after = successor(home.layout, before, name, home.layout.runs / name)
                try:
                    replace_champion(home.layout, before, after)
                except ChampionChangedError:
                    continue
                seen.append((after.previous, name))
                break

    threads = [threading.Thread(target=replace_often, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 60
    following: dict[str, int] = {"id-good": 1}
    for previous, name in seen:
        following[str(previous)] = following.get(str(previous), 0) - 1
        following[name] = following.get(name, 0) + 1
    last = read_champion(home.layout).model_id
    assert {name: count for name, count in following.items() if count} == {last: 1}


def test_rollback_goes_back_and_a_second_one_forth(home: Settings):
    promote(home, "good")
    promote(home, "twin")
    done = roll_back(home)
    assert (done.withdrawn.model_id, done.champion.model_id) == ("id-twin", "id-good")
    assert done.champion.checkpoint == "runs/good/model"
    assert done.gaps == []
    refused = promote(home, "twin")
    assert refused.outcome == "refused"
    assert "rolled back" in refused.reason
    roll_back(home)
    champion = read_champion(home.layout)
    assert (champion.model_id, champion.withdrawn) == ("id-twin", ("id-good",))
    assert promote(home, "good", is_forced=True).outcome == "promoted"
    assert read_champion(home.layout).withdrawn == ()


def test_rollback_needs_whole_tables_and_a_checkpoint(home: Settings):
    with pytest.raises(ArtifactError, match="no model was promoted yet"):
        roll_back(home)
    promote(home, "twin")
    with pytest.raises(ArtifactError, match="first champion"):
        roll_back(home)
    promote(home, "good")
    _drop_a_row(home)
    with pytest.raises(ArtifactError, match="stem_embeddings holds 19 of 20 rows of songs"):
        roll_back(home)
    assert read_champion(home.layout).model_id == "id-good"


def test_readers_see_whole_tables_only(
    home: Settings, band_model: Any, label_vectors: Any, write_checkpoint: Any
):
    """Whoever asks while models are published and promoted finds all stems of the champion."""
    layout = home.layout
    promote(home, "good")
    counts: set[int] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            uri = database_uri(layout, read_champion(layout).model_id)
            counts.add(lancedb.connect(uri).open_table(STEM_TABLE).count_rows())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for name in ("next", "next-but-one"):
            model = band_model(name, phase="jepa", condition_weight=1e5)
            embed_corpus("songs", [model], layout, label_vectors)
            write_checkpoint(layout, name)
            assert promote(home, str(layout.runs / name)).outcome == "refused"
            publish_corpus(layout, model.model_id, "songs")
            assert promote(home, str(layout.runs / name)).outcome == "promoted"
    finally:
        stop.set()
        reader.join()
    assert counts == {20}


def test_a_champion_without_checkpoint_cannot_be_compared_with(home: Settings):
    promote(home, "good")
    (home.layout.runs / "good" / "model").rename(home.layout.runs / "elsewhere")
    refused = promote(home, "twin")
    assert refused.outcome == "refused"
    assert "promote --force" in refused.reason
    assert promote(home, "twin", is_forced=True).outcome == "promoted"


@pytest.fixture
def deaf(home: Settings, band_model: Any, label_vectors: Any, write_checkpoint: Any) -> str:
    """A model whose condition drowns the mix: all basses tie, which counts against the query."""
    model = band_model("deaf", phase="jepa", condition_weight=1e15)
    embed_corpus("songs", [model], home.layout, label_vectors)
    publish_corpus(home.layout, model.model_id, "songs")
    write_checkpoint(home.layout, "deaf")
    return str(home.layout.runs / "deaf")


def test_who_does_not_hear_the_mix_is_not_promoted(home: Settings, deaf: str):
    lenient = load_settings(home.home, {"promotion": {"tolerance": 100.0}})
    promote(lenient, "good")
    refused = promote(lenient, deaf)
    assert refused.outcome == "refused"
    assert refused.reason == (
        "deaf (id-deaf) is not promoted: within_label_rank on songs is 100.0 (20 queries), its "
        "95 % interval 100.0…100.0 reaches 50 (chance): the mix is not heard; promote it all the "
        "same with --force"
    )
    assert read_champion(home.layout).model_id == "id-good"
    unasked = {"tolerance": 100.0, "requires_mix": False}
    judged = promote(load_settings(home.home, {"promotion": unasked}), deaf, is_dry_run=True)
    assert (judged.outcome, judged.heard) == ("promoted", ())
    assert promote(lenient, deaf, is_forced=True).outcome == "promoted"
    heard = promote(lenient, "twin")
    assert heard.outcome == "promoted"
    assert "within_label_rank on songs is 0.0 (20 queries)" in heard.reason
    assert "lies below 50" in heard.reason


def test_first_champion_that_does_not_hear_the_mix_is_promoted_with_a_warning(
    home: Settings, deaf: str
):
    done = promote(home, deaf)
    assert done.outcome == "promoted"
    assert "there was no champion before; warning: within_label_rank on songs" in done.reason
    assert "the mix is not heard" in done.reason


def test_where_no_labels_are_shared_nothing_is_asked_of_the_mix(
    home: Settings, write_corpus: Any, make_sine: Any, band_model: Any, label_vectors: Any
):
    """One stem a label: no place within the label, whatever the metric; nothing fails."""
    root = write_corpus(
        "lonely",
        {
            f"s{i}": {f"x{j}": (f"x{i}{j}", make_sine(3 * i + j, 1.0)) for j in (0, 1)}
            for i in (0, 1)
        },
    )
    texts = {f"x{i}{j}": label_vectors["music"] for i in (0, 1) for j in (0, 1)}
    for name in ("good", "twin"):
        model = band_model(name, phase="jepa", condition_weight=1.0)
        embed_corpus("lonely", [model], home.layout, texts)
        publish_corpus(home.layout, model.model_id, "lonely")
    corpora = {"lonely": {"kind": "manifest", "root": str(root / "corpus.csv")}}

    def promoted(name: str, **rule: Any) -> promotion.Promotion:
        chosen = {"gallery": ["lonely"], "corpora": ["lonely"], **rule}
        return promote(load_settings(home.home, {"corpora": corpora, "promotion": chosen}), name)

    cannot = (
        "whether the mix is heard cannot be said on lonely: no query of an unseen track is for a "
        "stem whose label another stem has"
    )
    assert cannot in promoted("good").reason
    equal = promoted("twin")
    assert (equal.outcome, cannot in equal.reason) == ("promoted", True)
    refused = promoted("good", metric="within_label_rank")
    assert refused.outcome == "refused"
    assert "within_label_rank applies to no query of lonely" in refused.reason
    nothing = promoted("good", metric="within_label_rank", corpora=[])
    assert nothing.outcome == "refused"
    assert "and that within_label_rank applies to" in nothing.reason


@pytest.mark.parametrize("metric", ["within_label_rank", "within_category_rank"])
def test_places_among_like_stems_decide_where_the_settings_say_so(
    home: Settings, deaf: str, metric: str
):
    chosen = {"metric": metric, "requires_mix": False}
    settings = load_settings(home.home, {"promotion": chosen})
    promote(settings, "good")
    refused = promote(settings, deaf)
    assert refused.outcome == "refused"
    assert f"worse: {metric} on songs is 100.0, the champion's 0.0" in refused.reason
    assert promote(settings, "twin").outcome == "promoted"


def test_command_line(home: Settings, capsys: pytest.CaptureFixture[str]):
    run: Callable[..., int] = lambda *words: stems(["--home", str(home.home), *words])  # noqa: E731
    assert run("promote", "--dry-run") == 0
    assert "dry run: good (id-good) is promoted" in capsys.readouterr().out
    assert current_champion(home.layout) is None
    assert run("promote") == 0
    assert run("promote", "bad") == 1
    assert "not promoted: worse" in capsys.readouterr().out
    assert run("rollback") == 2
    assert "stems promote MODEL" in capsys.readouterr().err
    assert run("promote", "twin") == 0
    assert run("rollback") == 0
    assert "id-good is the champion again, id-twin is withdrawn" in capsys.readouterr().out
    assert run("promote", "nobody") == 2
