"""What is known of features to those who read rows of them: their names, in order, and how their ranges are cut."""

from msgspec import Struct

from persona_stream.vocabulary.errors import ConfigError


class FeatureSet(Struct, frozen=True):
    """Which features rows consist of, in order: a row is float32 `[width]`."""

    names: tuple[str, ...]
    edges: tuple[tuple[float, ...], ...]
    """By feature, what cuts its range into bins for the online learner."""
    hash: str
    """Names this very definition: what was learned from rows of another means something else."""

    def __hash__(self) -> int:
        # What is made of a set is looked up by it for each list scored: hashing all edges costs more than the rest.
        return hash(self.hash)

    @property
    def width(self) -> int:
        """Features in a row.

        >>> FeatureSet(("age", "price"), ((0.5,), (1.0, 2.0)), "").width
        2
        """
        return len(self.names)

    def index(self, name: str) -> int:
        """The column of a feature. Raises ConfigError where there is none of that name."""
        at = self.get(name)
        if at is None:
            raise ConfigError(f"there is no feature {name}; there are: {', '.join(self.names)}.")
        return at

    def get(self, name: str) -> int | None:
        """The column of a feature; None where there is none of that name."""
        return self.names.index(name) if name in self.names else None
