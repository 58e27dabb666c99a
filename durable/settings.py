"""What all settings have in common: they are plain data that nobody changes."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Settings of one thing: frozen, without names that nobody knows, and of finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
