"""The page about families: its rows say what the declarations say, and no family or refusal is left out."""

import dataclasses
from pathlib import Path

import pytest

from slm_interp.convert.declaration import Declaration, Form, Recognised, UnitRange, parse_declaration, read_declaration
from slm_interp.convert.declared import said_units
from slm_interp.convert.families import FOLDER, families
from slm_interp.convert.refused import REFUSALS
from slm_interp.errors import ConversionError
from tests.family_replicas import REPLICAS

DOCS = Path(__file__).parent.parent / "docs"
GUIDE = (DOCS / "adding-a-family.md").read_text(encoding="utf-8")
PAGE = (DOCS / "families.md").read_text(encoding="utf-8")
DECLARED = [read_declaration(file) for file in sorted(FOLDER.glob("*.toml"))]


def row(family: Declaration) -> str:
    """The row of a family, from its declaration and its replicas."""
    replicas = {name: replica for name, replica in REPLICAS.items() if replica.family == family.name}
    rates = list(dict.fromkeys(one.rate_hz for one in family.units))
    merged = {one.merged for one in family.units}
    cells = (
        f"`{family.name}`",
        " ".join(f"`{one}`" for one in family.recognised.model_types),
        ", ".join(f"{said.rsplit(' ', 1)[0]} `{said.rsplit(' ', 1)[1]}`" for said in said_units(family)),
        " / ".join("not stated" if rate is None else f"{rate:g}" for rate in rates),
        "yes" if merged == {True} else "no" if merged == {False} else ", ".join(one.template for one in family.units if one.merged),
        ", ".join(f"{modality} `{token}`" for modality, token in family.markers.items()) or "none",
        ", ".join(f"{modality} `{token}`" for modality, token in family.closers.items()) or "none",
        ", ".join(form.name for form in family.forms),
        ", ".join(f"`{name}`" for name in replicas),
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


@pytest.mark.parametrize("family", DECLARED, ids=lambda one: one.name)
def test_a_family_s_row_says_what_its_declaration_says(family):
    assert row(family) in PAGE.splitlines()


@pytest.mark.parametrize("name", families())
def test_the_page_says_of_every_family_what_is_interleaved_and_where_its_facts_come_from(name):
    assert sum(line.startswith(f"| `{name}` |") for line in PAGE.splitlines()) == 2


@pytest.mark.parametrize("name", [one.name for one in REFUSALS])
def test_the_page_names_every_model_that_is_refused_and_why(name):
    refusal = next(one for one in REFUSALS if one.name == name)
    assert f"| {name} | {refusal.reason} |" in PAGE


@pytest.mark.parametrize("kind", [Declaration, Recognised, UnitRange, Form])
def test_the_guide_explains_every_key_of_a_declaration(kind):
    rows = [line.split("|")[1] for line in GUIDE.splitlines() if line.startswith("| `")]
    known = {one.name for one in dataclasses.fields(kind)} - {"units", "forms", "recognised"}
    assert {name for name in known if not any(f"`{name}`" in row for row in rows)} == set()


def test_the_guide_s_example_is_a_declaration():
    example = parse_declaration(GUIDE.split("```toml")[1].split("```")[0], "example.toml")
    shipped = next(one for one in DECLARED if one.name == example.name)
    assert example == dataclasses.replace(shipped, forms=shipped.forms[:1])


@pytest.mark.parametrize("wrong", ['tempalte = "[Hu{}]"\ncount = 501', 'template = "[Hu]"\ncount = 501'])
def test_the_guide_quotes_what_a_wrong_declaration_is_told(wrong):
    with pytest.raises(ConversionError) as refused:
        parse_declaration(f'name = "mine"\n[[units]]\n{wrong}\n[[forms]]\nname = "bare"\n', "mine.toml")
    quoted = [line.removesuffix(" ...") for line in GUIDE.splitlines() if line.startswith("The declaration 'mine.toml'")]
    assert any(str(refused.value).startswith(line) for line in quoted)
