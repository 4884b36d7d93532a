"""The keys of the study of readings: what a paper leaves open, in every combination."""

from typing import Annotated

from pydantic import Field, JsonValue

from veltair.config.section import Name, Section, key


class Readings(Section):
    """Every combination of some options of a policy, each beside another policy under equal options."""

    policy: Annotated[Name, key("policy whose paper is read in several ways")] = "Veltair-FULL"
    against: Annotated[
        Name, key("policy that each reading is compared with, under the reading's order, conflict and drop")
    ] = "Planaria"
    options: Annotated[
        dict[Name, Annotated[tuple[JsonValue, ...], Field(min_length=1)]],
        key("options of that policy, each with the values that it takes in turn; none: there is no study"),
    ] = Field(default={})
