"""A beat-tracking set as a corpus: each recording is a track of one unlabelled stem.

Its splits: ``test`` where nothing may be trained on the set (GTZAN), otherwise none.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ml.beats.annotations import UNFOLDED, read_beat_annotations
from ml.corpora.corpus import CorpusError, Track


class BeatCorpus:
    """The annotated recordings below a folder, sorted by name.

    Args:
        root: where the recordings lie.
        set: one of ``ml.beats.recordings.SETS``.
        annotations: the folder that holds the annotations of the sets; relative to ``root``.

    Raises:
        CorpusError: an unknown set, annotations that cannot be read, or no recording of any
            annotated track.
    """

    def __init__(self, root: Path, set: str, annotations: str | Path) -> None:
        self.root = Path(root)
        self.beat_set = read_beat_annotations(self.root / annotations, set, audio_root=self.root)
        if not self.beat_set.tracks:
            raise CorpusError(
                f"{self.root} holds no recording of the {len(self.beat_set.missing)} annotated "
                f"tracks of {set}, and {len(self.beat_set.unannotated)} other audio files; "
                "expected files named like the annotations or as the set is distributed"
            )

    def tracks(self) -> Iterator[Track]:
        """All annotated tracks that have a recording."""
        split = "test" if self.beat_set.name in UNFOLDED else None
        for track in self.beat_set.tracks:
            yield Track(track_id=track.track_id, stems=track.stems, split=split)
