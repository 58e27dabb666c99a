"""Settings of checkpoints, a part of the tree in `settings.py`."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from durable.addresses import taken
from durable.settings import Settings


class CheckpointSettings(Settings):
    """Exact checkpoints, to resume from."""

    where: Annotated[str | None, BeforeValidator(taken)] = Field(
        None,
        min_length=1,
        description="a folder, or a URL such as s3://bucket/prefix (extras s3, gcs, azure), in short "
        "--checkpoints URL; none: checkpoints in mlruns",
    )
    every: int | None = Field(
        None, ge=1, description="iterations between two; by default a tenth of the steps"
    )
    keep_last: int = Field(3, ge=1, description="newest that are kept")
    keep_best: int = Field(1, ge=0, description="best on validation that are kept besides")
    queue: int = Field(32, ge=1, description="uploads that may wait before the oldest is left out")

    @model_validator(mode="before")
    @classmethod
    def _where_alone(cls, value: object) -> object:
        """Lets it be written `--checkpoints s3://bucket/prefix`."""
        return {"where": value} if isinstance(value, str) else value

    def root(self, mlruns: Path) -> Path:
        """The local folder; with a URL, what is on its way there."""
        local = mlruns / "checkpoints" if self.where is None or self.url else Path(self.where)
        return local.resolve()

    @property
    def url(self) -> str | None:
        """Where to upload, if anywhere."""
        return self.where if self.where and "://" in self.where else None
