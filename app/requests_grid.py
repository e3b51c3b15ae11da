"""Params of the X/Y/Z grid."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.grid import Plan, changed, line, plan
from app.requests import GenerateParams, Params


class AxisParams(BaseModel):
    """One axis: a setting by the WebUI's name, and its values as text."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(default="", description="Seed, Steps, CFG Scale, Sampler, Prompt S/R, ...; empty: no axis")
    values: str = Field(default="", max_length=10_000, description="1-5, 1-10 (+2), 0-1 [5], or a comma list")


class GridParams(Params):
    """One picture for each combination of the axes' values, on a labelled sheet."""

    kind: ClassVar[str] = "grid"

    base: GenerateParams
    x: AxisParams = Field(default_factory=AxisParams)
    y: AxisParams = Field(default_factory=AxisParams)
    z: AxisParams = Field(default_factory=AxisParams)
    legend: bool = True
    each: bool = Field(default=False, description="keep the single pictures in the gallery too")
    save: bool = Field(default=True, description="keep the sheet in the gallery")

    @model_validator(mode="after")
    def _whole(self) -> "GridParams":
        self.plan()
        return self

    def plan(self, seed: int | None = None) -> Plan:
        """The cells; `seed` where the form says -1. Raises ValueError for values that cannot be."""
        lines = [line(axis.name, axis.values) for axis in (self.x, self.y, self.z)]
        if all(one is None for one in lines):
            raise ValueError("choose at least one axis and give its values")
        alone: dict[str, Any] = {"count": 1, "batch_size": 1}
        if seed is not None and self.base.seed < 0:
            alone["seed"] = seed
        return plan(changed(self.base, alone), lines)
