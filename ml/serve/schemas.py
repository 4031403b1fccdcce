"""What the API answers, and the one body that it takes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

KEY_PATTERN = r"^[^\x00]+$"
"""Keys are of file names, which may hold tabs and ends of lines."""
LINE_PATTERN = r"^[^\x00-\x1f\x7f]+$"
"""What a person types is of one line."""
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=LINE_PATTERN)]
Key = Annotated[str, Field(min_length=1, max_length=1000, pattern=KEY_PATTERN)]


class Problem(BaseModel):
    """Why a request was not answered."""

    detail: str = Field(description="One sentence: what was found, what was expected, what to do.")


class Bounds(BaseModel):
    """What an upload may be."""

    upload_bytes: int = Field(description="Largest file.")
    mix_s: float = Field(description="Longest mix, in seconds.")


class Health(BaseModel):
    """What answers now."""

    status: Literal["ok"] = "ok"
    model: str = Field(description="Name of the model that makes the queries.")
    model_id: str = Field(description="Content fingerprint of its checkpoint.")
    table_version: int = Field(description="Version of the LanceDB table that is searched.")
    rows: int = Field(description="Stems in it.")
    bounds: Bounds


class LabelCount(BaseModel):
    """A label of the table."""

    label: str
    stems: int = Field(
        description="How many stems have it: as their finest label in a list of all labels."
    )


class Instruments(BaseModel):
    """Words to ask with; any other text works too."""

    training: list[str] = Field(description="Labels that the model met in training.")
    table: list[LabelCount] = Field(description="Labels of the stems that can be found.")
    categories: list[str] = Field(description="Coarse labels of these stems, for the filter.")


class CorpusCount(BaseModel):
    """A corpus of the table."""

    corpus: str
    stems: int
    tracks: int


class StemSummary(BaseModel):
    """A stem of a track."""

    key: str = Field(description="Names the stem: <corpus>/<stem_id>.")
    label: str
    category: str | None
    duration_s: float


class TrackSummary(BaseModel):
    """A track whose stems are in the table."""

    corpus: str
    track_id: str
    split: str | None
    duration_s: float = Field(description="Of its longest stem.")
    stems: list[StemSummary]


class TrackPage(BaseModel):
    """Some of the tracks that match."""

    total: int = Field(description="How many match.")
    tracks: list[TrackSummary]


class TrackMix(BaseModel):
    """Which mix to make of a track."""

    model_config = ConfigDict(extra="forbid")

    corpus: Text
    track_id: Key
    leave_out: list[Key] = Field(
        default_factory=list,
        max_length=200,
        description="Keys of its stems that the mix lacks; the mix is the sum of the others.",
    )


class Waveform(BaseModel):
    """A sound at a glance, and how it is served."""

    duration_s: float
    peaks: list[float] = Field(description="Largest magnitude of equal parts of it, 0…1.")
    served_gain: float = Field(
        description="Linear gain of the served audio: below 1 when the sound exceeds full scale."
    )


class MixInfo(BaseModel):
    """A mix to ask with."""

    id: str = Field(description="Made of its content: the same mix has the same id.")
    name: str
    waveform: Waveform
    audio: str = Field(description="Link to the decoded audio.")
    corpus: str | None = Field(description="Where its track comes from; null for an upload.")
    track_id: str | None
    left_out: list[StemSummary] = Field(description="Stems of the track that the mix lacks.")
    bpm: float | None = Field(description="Its tempo; null where it is not steady.")
    musical_key: str | None = Field(description="Its key, such as A minor; null where none is.")


class CandidateInfo(BaseModel):
    """A stem that could fit."""

    rank: int = Field(description="1 = first.")
    score: float = Field(description="Cosine, -1…1: of what, the answer's `compares` says.")
    key: str
    stem_id: str
    track_id: str
    corpus: str
    label: str
    category: str | None
    best_start_s: float | None = Field(
        description="Where to play the stem from: where it begins to sound in the chunk that fits "
        "best; null when not known."
    )
    mix_start_s: float | None = Field(
        description="Where in the mix that fits best; null without a mix or when not known."
    )
    duration_s: float
    bpm: float | None = Field(description="Tempo of its song; null where it is not steady.")
    musical_key: str | None = Field(
        description="Key of its song, such as A minor; null where there is none, as of drums."
    )
    audio: str = Field(description="Link to the decoded audio; takes ranges.")
    peaks: str = Field(description="Link to its waveform.")
    file: str = Field(description="Link to the file to keep.")
    variants: list[str] = Field(
        description="Keys of other recordings of the same thing, which this one stands for."
    )


class FitInfo(BaseModel):
    """How a stem is played with a mix."""

    speed: float = Field(description="How much faster it is played.")
    semitones: int = Field(description="How much higher it is played.")
    start_s: float = Field(description="Where to play what `audio` sends from: on a beat.")
    mix_start_s: float = Field(description="Which beat of the mix goes with that.")
    duration_s: float = Field(description="Length of what `audio` sends.")
    notes: list[str] = Field(
        description="Why it was not brought to the tempo or key of the mix: a sentence each."
    )
    audio: str = Field(description="Link to the stem, played so; takes ranges.")
    excerpt: str = Field(description="Link to the chunk of it that fits best, to keep.")


class Found(BaseModel):
    """The answer to a search."""

    model: str
    model_id: str
    table_version: int
    instrument: str | None
    compares: Literal["mix", "label", "stem"] = Field(
        description="What each score is the cosine of: the stem and what the mix lacks; its label "
        "and the instrument in words (it says nothing of how the stem sounds); the stem and the "
        "one it shall be like."
    )
    note: str | None = Field(
        description="How the model takes an instrument that it did not meet in training."
    )
    is_guess: bool = Field(
        description="Whether neither training nor table knows such an instrument: the scores "
        "say little then."
    )
    matching: list[LabelCount] = Field(
        description="Labels of the table, of any level, that the instrument matches."
    )
    chunk_s: float = Field(
        description="Length of a chunk: how much there is to hear from best_start_s on, in seconds."
    )
    candidates: list[CandidateInfo] = Field(description="Best first.")
