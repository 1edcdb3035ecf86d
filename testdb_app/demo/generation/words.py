"""The words that the rows are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

ADJECTIVES = ("Silent", "Crooked", "Golden", "Last", "Hidden", "Northern", "Broken", "Patient")
NOUNS = ("River", "House", "Garden", "Winter", "Harbour", "Letter", "Mountain", "Orchard")
FIRST_NAMES = ("Ada", "Bela", "Chidi", "Dilan", "Edda", "Farah", "Goro", "Hanna")
LAST_NAMES = ("Abel", "Brandt", "Castro", "Diallo", "Eriksen", "Fontana", "Garcia", "Haddad")
OPINIONS = ("Would come again.", "Better than its cover.", "Too long by half.", "A quiet pleasure.")


def title(random: Random) -> str:
    """Return the title of a work."""
    return f"The {random.choice(ADJECTIVES)} {random.choice(NOUNS)}"


def person(random: Random) -> str:
    """Return the full name of a person."""
    return f"{random.choice(FIRST_NAMES)} {random.choice(LAST_NAMES)}"
