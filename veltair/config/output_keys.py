"""The keys of what comes out: where results and figures go, and how policies look there."""

from typing import Annotated, Literal

from pydantic import Field

from veltair.config.section import FolderPath, Name, Section, key


class Results(Section):
    """Where results go."""

    folder: Annotated[FolderPath, key("folder of all results")] = "results"


class Figures(Section):
    """Where figures go and in which formats."""

    folder: Annotated[FolderPath, key("folder of all figures")] = "figures"
    formats: Annotated[
        tuple[Literal["png", "svg", "pdf"], ...], key("file formats of each figure", min_length=1)
    ] = ("png", "svg")
    styles: Annotated[
        tuple[Name, ...],
        key(
            "policies in the order in which they get colours, hatches and markers; others follow in that "
            "of `policies`"
        ),
    ] = ()
    families: Annotated[
        dict[Name, Annotated[tuple[Name, ...], Field(min_length=1)]],
        key(
            "policies that are shown together in shades of one colour, by the name of their family; others "
            "have a colour of their own"
        ),
    ] = Field(default={})
