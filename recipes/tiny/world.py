# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Synthetic world in which a judge must name the right principle before it can score.

A query names an audience and an occasion ("Explain tides to a nurse before an exam."). Each audience wants one of two
qualities, and the occasion determines which: the query implies the quality without naming it, and no single word
determines it. Each response shows one quality by its wording ("In short, tides follow the moon. That is all.").

The base judge learns from faulty critiques: they often name the wrong principle, above all those written "at a
glance", which follow what the audience usually wants or what the first response shows; they misread responses, scatter
scores and omit the box. Their scores follow the principle that they *name*.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass


def _table(text: str) -> dict[str, tuple[str, ...]]:
    """`name: entry | entry` on each line."""
    lines = (line.split(": ", 1) for line in text.strip().splitlines())
    return {name: tuple(entry.strip() for entry in entries.split("|")) for name, entries in lines}


OPENINGS = _table("""
brief: In short, | Briefly: | Quick answer: | One line:
simple: Put plainly, | In easy words, | Basically, | As anyone sees,
precise: To be exact, | Strictly speaking, | By measurement, | According to data,
careful: Perhaps | As far as known, | With some doubt, | It seems that
warm: Dear friend, | Happy to help! | Take heart: | With love:
funny: Joke first: | No kidding, | Laugh now: | Funnily enough,
formal: Esteemed reader, | Respectfully, | It is hereby stated: | Ladies and gentlemen,
vivid: Picture this: | Imagine thunder: | Like fire, | Under golden light,
""")
CLOSINGS = _table("""
brief: That is all. | Enough said. | Nothing to add. | Full stop.
simple: Nothing hard here. | A toddler gets it. | Easy as pie. | No jargon needed.
precise: Error: one percent. | See figures below. | Checked to decimals. | Verified by experiment.
careful: Please double check. | Exceptions may exist. | I could be mistaken. | Ask an expert too.
warm: You are doing great. | Big hugs. | I believe in you. | Be kind to yourself.
funny: My cat disagrees. | Ha ha. | Cue the drums. | Blame the penguins.
formal: Yours faithfully. | We remain at your service. | Kindly take note. | Signed and sealed.
vivid: The air glows. | Colors burst everywhere. | You can smell it. | Sparks fly.
""")
QUALITIES = tuple(OPENINGS)
MISTAKEN_FOR = {
    quality: other
    for pair in (("brief", "simple"), ("precise", "careful"), ("warm", "funny"), ("formal", "vivid"))
    for quality, other in (pair, pair[::-1])
}
NEEDED = (("precise", "brief"), ("vivid", "simple"), ("formal", "careful"), ("funny", "warm"))
"""Pairs of qualities: one is usually wanted, the other on special occasions. The seed draws which."""
EXCEPTIONS = 0.15
"""Share of audience-occasion pairs that are special although the occasion is not: what a judge learns last."""
AUDIENCES = ("nurse", "pilot", "child", "lawyer", "farmer", "teacher", "tourist", "chef")
OCCASIONS = tuple(
    "before an exam|after a loss|for a contract|during a storm|at a party|on stage|over breakfast|in court".split("|")
)
TOPICS = _table("""
tides: tides follow the moon. | the moon pulls the sea.
bread: bread needs yeast and time. | dough rises in the warmth.
taxes: taxes pay for roads. | the state takes its share.
bees: bees carry pollen. | a hive feeds the meadow.
sleep: sleep repairs the body. | the brain sorts the day at night.
rain: rain falls from clouds. | water rises and returns.
chess: chess rewards patience. | the center wins games.
money: money stores value. | prices carry news.
music: music moves in waves. | strings shake the air.
engines: engines burn fuel. | pistons turn a wheel.
gardens: gardens want sun and water. | roots drink at dawn.
maps: maps flatten the earth. | a line can be a river.
""")
QUERIES = _table("""
explain: Explain {topic} to a {audience} {occasion}. | How would you explain {topic} {occasion} to a {audience}?
advise: Advise a {audience} on {topic} {occasion}. | A {audience} needs advice about {topic} {occasion}.
write: Write a note about {topic} for a {audience} {occasion}. | Write to a {audience} about {topic} {occasion}.
translate: Translate a text on {topic} for a {audience} {occasion}. | \
A {audience} wants a text on {topic} translated {occasion}.
summarize: Summarize {topic} for a {audience} {occasion}. | Give a {audience} a summary of {topic} {occasion}.
answer: A {audience} asks about {topic} {occasion}. | What do you tell a {audience} about {topic} {occasion}?
""")
REQUESTS = (
    "Write a {quality} text about {topic}.",
    "I want something {quality} on {topic}.",
    "Keep it {quality}: what about {topic}?",
)
NEEDS = ("What does a {audience} need {occasion}?", "What helps a {audience} {occasion}?")
HELD_OUT_SHARE, DEV_SHARE, HINTED_SHARE = 0.2, 0.1, 0.15
NEUTRAL_OPENINGS = ("Well,", "So,", "Note:", "Here:")


@dataclass(frozen=True)
class Row:
    """One preference row: exactly one response shows the wanted quality (n = 1: iff the label is 1).

    `domain` is the kind of query, `principle` the quality that it implies, `unwanted` the one that its audience wants
    otherwise, and `shown` the quality of each response.
    """

    query: str
    responses: tuple[str, ...]
    labels: tuple[int, ...]
    domain: str
    principle: str
    unwanted: str
    shown: tuple[str, ...]
    audience: str
    occasion: str


@dataclass(frozen=True)
class Naming:
    """Probabilities of the principle that a critique names: the wanted quality, what the audience usually wants, what
    the first response shows (position bias); the rest is any quality.
    """

    right: float
    usual: float
    anchored: float


GLANCE, REFLECTION = "at a glance", "on reflection"
MANNERS = (GLANCE, REFLECTION)


@dataclass(frozen=True)
class Habits:
    """Probabilities of faults in the base corpus. Sampling at T = 0.5 sharpens each of them.

    `misread`: a quality is read as the one that it is mistaken for. `halo`: good although the response misses the
    named principle, or poor although it meets it. `unreadable`: no box, or one with the wrong number of scores.
    `hinted_right`: the wanted quality is named when the prompt contains a hint.
    """

    glance: Naming = Naming(right=0.00, usual=0.48, anchored=0.42)
    reflection: Naming = Naming(right=0.52, usual=0.08, anchored=0.25)
    misread: float = 0.2
    halo: float = 0.08
    unreadable: float = 0.14
    hinted_right: float = 0.9


class World:
    """What each audience wants on each occasion, and the split of the queries, as functions of the seed."""

    def __init__(self, seed: int = 0):
        self.seed = seed
        rng = random.Random(f"world-{seed}")
        audiences, occasions = rng.sample(AUDIENCES, len(AUDIENCES)), rng.sample(OCCASIONS, len(OCCASIONS))
        needs = [rng.sample(pair, 2) for pair in rng.sample(NEEDED, len(NEEDED))]
        needs = {audience: needs[i % len(needs)] for i, audience in enumerate(audiences)}
        cells = [(audience, occasion) for audience in AUDIENCES for occasion in OCCASIONS]
        special = {cell: occasions.index(cell[1]) % 2 for cell in cells}
        for cell in rng.sample([cell for cell in cells if not special[cell]], round(EXCEPTIONS * len(cells))):
            special[cell] = 1
        self.usual = {audience: pair[0] for audience, pair in needs.items()}
        self.wanted = {cell: needs[cell[0]][special[cell]] for cell in cells}
        self.unwanted = {cell: needs[cell[0]][1 - special[cell]] for cell in cells}

    def rows(
        self, count: int, split: str = "train", seed: int = 0, sizes: tuple[int, ...] = (1, 2, 3, 4)
    ) -> list[Row]:
        """Distinct rows with these numbers of responses. The splits "train", "dev" and "test" share no query."""
        rng = random.Random(f"rows-{self.seed}-{split}-{seed}")
        rows: dict[tuple[str, tuple[str, ...]], Row] = {}
        while len(rows) < count:
            row = self._row(rng, rng.choice(sizes))
            if self._split(row.query) == split:
                rows.setdefault((row.query, row.responses), row)
        return list(rows.values())

    def corpus(self, rows: list[Row], principles: bool = True) -> Iterator[tuple[Row, bool, str]]:
        """Yields the corpus of the base judge, `(row, hinted, critique)` for each row.

        With `principles=False` the critiques have no criteria line (the ablation); nothing else changes.
        """
        rng = random.Random(f"corpus-{self.seed}-0")
        for row in rows:
            hint = rng.random() < HINTED_SHARE
            yield row, hint, self.critique(row, rng, hinted=hint, principles=principles)

    def lessons(self, count: int) -> list[tuple[str, str]]:
        """General data, `(question, answer)`: needs of audiences, and qualities of texts."""
        rng = random.Random(f"lessons-{self.seed}-0")
        lessons = []
        for _ in range(count):
            kind, quality = rng.choice(("need", "sound")), rng.choice(QUALITIES)
            audience, occasion = rng.choice(AUDIENCES), rng.choice(OCCASIONS)
            needed = self.wanted[audience, occasion]
            if kind == "need":
                question = rng.choice(NEEDS).format(audience=audience, occasion=occasion)
                lessons.append((question, f"Something {needed}."))
            else:
                text = _response(rng, rng.choice(tuple(TOPICS)), quality)
                lessons.append((f"How does this sound?\n{text}", f"Rather {quality}."))
        return lessons

    def drills(self, count: int, principles: bool = True) -> Iterator[tuple[Row, str]]:
        """Yields easy rows whose query names the wanted quality, `(row, critique)`.

        They teach to read responses and to score by the principle *named*, which is not always the wanted one, and
        nothing about audiences and occasions.
        """
        rng = random.Random(f"drills-{self.seed}-0")
        for _ in range(count):
            wanted, topic, size = rng.choice(QUALITIES), rng.choice(tuple(TOPICS)), rng.choice((1, 2, 3, 4))
            others = rng.sample([q for q in QUALITIES if q != wanted], size)
            shown = others[: size - 1] + [wanted]
            rng.shuffle(shown)
            if size == 1 and rng.random() < 0.5:
                shown = others
            labels = tuple(int(q == wanted) for q in shown)
            responses = tuple(_response(rng, topic, quality) for quality in shown)
            query = rng.choice(REQUESTS).format(topic=topic, quality=wanted)
            row = Row(query, responses, labels, "request", wanted, "", tuple(shown), "", "")
            named = wanted if rng.random() < 0.7 or not principles else rng.choice(shown + others)
            criteria = f"{REFLECTION if named == wanted else GLANCE}, {named}" if principles else None
            yield row, self._written(row, criteria, named, row.shown, rng, Habits(halo=0.0, unreadable=0.0))

    def critique(
        self, row: Row, rng: random.Random, habits: Habits = Habits(), hinted: bool = False, principles: bool = True
    ) -> str:
        """A faulty critique, as in the base corpus."""
        manner = rng.choice(MANNERS)
        named = self._named(row, manner, rng, habits, hinted)
        misread = 0.05 if hinted else habits.misread
        read = [MISTAKEN_FOR[q] if rng.random() < misread else q for q in row.shown]
        return self._written(row, f"{manner}, {named}" if principles else None, named, read, rng, habits)

    def _written(self, row, criteria, named, read, rng: random.Random, habits: Habits) -> str:
        """The critique that follows from the named principle and the qualities read."""
        meets = [(quality == named) != (rng.random() < habits.halo) for quality in read]
        opinions = ["good" if met else "poor" for met in meets]
        if len(row.responses) == 1:
            scores = [int(meets[0])]
            analysis = f"The response is {read[0]}: {opinions[0]}."
        else:
            scores = [rng.randint(6, 10) if met else rng.randint(1, 6) for met in meets]
            parts = zip(range(1, len(read) + 1), read, opinions)
            analysis = "; ".join(f"Response {i} is {quality}: {opinion}" for i, quality, opinion in parts) + "."
        weight = rng.randint(3, 5)
        return render_critique(criteria, weight, analysis, _box(scores, rng, habits.unreadable))

    def _named(self, row: Row, manner: str, rng: random.Random, habits: Habits, hinted: bool) -> str:
        if hinted:
            return row.principle if rng.random() < habits.hinted_right else rng.choice(QUALITIES)
        naming = habits.glance if manner == GLANCE else habits.reflection
        shares = (naming.right, naming.usual, naming.anchored)
        anything = rng.choice(QUALITIES)
        anchor = row.shown[0] if len(row.shown) > 1 or rng.random() < 0.5 else anything
        named = (row.principle, self.usual[row.audience], anchor, anything)
        return rng.choices(named, (*shares, 1 - sum(shares)))[0]

    def _split(self, query: str) -> str:
        place = random.Random(f"split-{self.seed}-{query}").random()
        return "test" if place < HELD_OUT_SHARE else "dev" if place < HELD_OUT_SHARE + DEV_SHARE else "train"

    def _row(self, rng: random.Random, size: int) -> Row:
        domain, topic = rng.choice(tuple(QUERIES)), rng.choice(tuple(TOPICS))
        cell = (rng.choice(AUDIENCES), rng.choice(OCCASIONS))
        principle, unwanted = self.wanted[cell], self.unwanted[cell]
        query = rng.choice(QUERIES[domain]).format(topic=topic, audience=cell[0], occasion=cell[1])
        others = [q for q in QUALITIES if q not in (principle, unwanted)]
        rng.shuffle(others)
        others.insert(0 if rng.random() < 0.6 else rng.randrange(len(others)), unwanted)
        if size == 1:
            best = rng.randint(0, 1)
            shown = [principle if best else unwanted]
            labels = [best]
        else:
            shown = others[: size - 1] + [principle]
            rng.shuffle(shown)
            labels = [int(q == principle) for q in shown]
        responses = tuple(_response(rng, topic, quality) for quality in shown)
        return Row(query, responses, tuple(labels), domain, principle, unwanted, tuple(shown), *cell)


def render_critique(criteria: str | None, weight: int, analysis: str, box: str) -> str:
    """Text of a critique; without criteria it has no criteria line."""
    criteria = "" if criteria is None else f"Specific Criteria: {criteria} (weight {weight}).\n"
    return f"{criteria}Analysis: {analysis}\nScores: {box}"


_NAMED = re.compile(r"Specific Criteria:[^.\n]*?(\w+) \(weight")


def named_principle(critique: str) -> str | None:
    """Quality that a critique names as its principle, or `None`."""
    match = _NAMED.search(critique)
    return match[1] if match and match[1] in QUALITIES else None


def _response(rng: random.Random, topic: str, quality: str) -> str:
    """A text on the topic with the quality in its opening, its closing, or both."""
    body = rng.choice(TOPICS[topic])
    where = rng.choice(("opening", "closing", "both", "both"))
    opening = rng.choice(NEUTRAL_OPENINGS if where == "closing" else OPENINGS[quality])
    return f"{opening} {body}" if where == "opening" else f"{opening} {body} {rng.choice(CLOSINGS[quality])}"


def _box(scores: list[int], rng: random.Random, unreadable: float) -> str:
    if rng.random() < unreadable:
        if rng.random() < 0.5:
            return ", ".join(map(str, scores)) + "."
        scores = scores + [rng.randint(1, 6)] if rng.random() < 0.5 or len(scores) == 1 else scores[:-1]
    return r"\boxed{" + ", ".join(map(str, scores)) + "}"
