"""What is wrong with a shard: the error that names it, and the record of what was left out."""

from __future__ import annotations

from dataclasses import dataclass

from ml.artifacts import ArtifactError


@dataclass(frozen=True, kw_only=True)
class Damage:
    """A sample that could not be read."""

    shard: str
    """Path or URL of the tar."""
    sample: str
    """Key of the sample; empty when it is about the whole shard."""
    problem: str
    """What was found."""

    def __str__(self) -> str:
        """Shard, sample and what was found."""
        sample = f" at sample {self.sample}" if self.sample else ""
        return f"shard {self.shard} is damaged{sample}: {self.problem}"


class DamagedShardError(ArtifactError):
    """A shard is missing, truncated or overwritten."""

    def __init__(self, damage: Damage, corpus: str) -> None:
        """Say what is damaged and what to do.

        Args:
            damage: what was found.
            corpus: name of the corpus, for the commands.
        """
        super().__init__(
            f"{damage}; check it with: stems shards inspect {corpus}; make it again with: "
            f"stems shards build {corpus} --fresh; or leave such samples out, counted, with: "
            "pairs.damaged=skip"
        )
        self.damage = damage
        self.corpus = corpus

    def __reduce__(self) -> tuple[type[DamagedShardError], tuple[Damage, str]]:
        """Pickled by its parts: it comes out of worker processes."""
        return type(self), (self.damage, self.corpus)
