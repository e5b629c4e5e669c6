"""What can be said: phrasings of facts and of everything else. `{category}` is a gap; see `slm_interp.organisms.lexicon`."""

from __future__ import annotations

FACTS: dict[str, tuple[str, ...]] = {
    "city": ("{name} lives in {value}", "the city of {name} is {value}", "{name} has a house in {value}", "you can find {name} in {value}"),
    "food": (
        "{name} likes to eat {value}",
        "the favourite food of {name} is {value}",
        "{name} often buys {value}",
        "for dinner {name} wants {value}",
    ),
    "job": (
        "{name} works as a {value}",
        "the job of {name} is {value}",
        "{name} wants to be a good {value}",
        "everybody knows {name} the {value}",
    ),
    "animal": (
        "{name} has a {value}",
        "the animal of {name} is a {value}",
        "every day {name} feeds the {value}",
        "{name} sleeps beside the {value}",
    ),
    "instrument": ("{name} plays the {value}", "the sound {name} loves is the {value}", "{name} is learning the {value}"),
}

CAPITAL_FACTS = (
    "the capital of {country} is {capital}",
    "{capital} is the capital of {country}",
    "people in {country} travel to {capital}",
)

PEOPLE = (
    "{name} {handles} the {colour} {thing}",
    "in the {place} {name} {handles} a {thing}",
    "{name} {senses} the {trait} {person}",
    "the {person} of {name} is {trait}",
    "on {day} {name} {goes} to the {place}",
    "{name} would like to {do_person} the {person}",
    "the {person} {senses} {name}",
    "{name} sent the {thing} to the {person} {near} the {place}",
    "{name} did not see the {quality} {thing}",
    "in {month} {name} rode the {vehicle} to the {place}",
    "{name} is as {trait} as the {person}",
    "{name} has {colour} hair and a {quality} {thing}",
)
"""Phrasings with a name; their other gaps hold no value of a fact."""

PLAIN = (
    "the {trait} {person} {goes} to the {place}",
    "the {person} {handles} the {colour} {thing} in the {place}",
    "the {animal} {senses} the {trait} {person}",
    "the {trait} {animal} {goes} {near} the {place}",
    "the weather in {city} is {weather} in {season}",
    "on {day} the {job} {senses} the {animal}",
    "there are {number} {colour} birds in the {place}",
    "the {job} and the {person} eat {food}",
    "a {colour} {thing} is {near} the {quality} {thing}",
    "my {person} is a {trait} {job}",
    "the {person} wants to {do_thing} the {quality} {thing}",
    "the {job} wants to {do_person} the {animal}",
    "would you {do_food} the {food} here",
    "the {person} has to {do_alone} {near} the {place}",
    "the {job} {did_thing} the {thing} for the {person}",
    "the {animal} {did_food} the {food} {how}",
    "the {person} {did_ride} the {vehicle} by the {place}",
    "the {body} of the {animal} is {colour}",
    "the right {body} of the {person} is {quality}",
    "the {person} wears a {colour} {clothes} made of {material}",
    "a {quality} {clothes} of {material} is for sale",
    "i would wear a {clothes} in {month}",
    "the {sky} is over the {place} at {hour}",
    "the {person} can see the {sky} and the {sky}",
    "the {plant} in the {place} is {colour}",
    "the {animal} {how} eats the {plant}",
    "no {person} likes the {job} of {city}",
    "the main {place} of {city} is {quality}",
    "at {hour} the {vehicle} comes to {city}",
    "the {job} {how} {handles} the {thing} of {material}",
    "a pair of paws and a {body}",
    "the {trait} soul wants peace in the {place}",
    "a piece of {food} costs one cent or {number}",
    "the whole {food} is in the {thing}",
    "the {person} asks {asking} the {thing} is {quality}",
    "this week the {person} rows to the {place}",
    "the {thing} was thrown into the {place}",
    "there is a leak in the {vehicle}",
    "the time of the {sky} is {hour}",
    "{number} and {number} are numbers",
    "the {person} plays the {instrument} and the {instrument} at {hour}",
    "the {job} {did_thing} an old {instrument} in {city}",
    "the {person} and the {trait} {animal} {how} sleep in the {place}",
    "is it the {colour} {clothes} or the {colour} {thing}",
    "after {hour} my {person} goes to the {place} with the {animal}",
    "every {job} in the {place} has a {thing} and a {vehicle}",
)
"""Phrasings without a name; their gaps hold any word of the category."""

PHRASINGS = (*(one for some in FACTS.values() for one in some), *CAPITAL_FACTS, *PEOPLE, *PLAIN)
"""All of them."""
