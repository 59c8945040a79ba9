# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Fencing: user text that imitates the structure of a judge's prompt is rewritten so that it stays text."""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

CONTEXT, RESPONSES, FORMAT = "Conversation Context", "Responses to be Scored", "Output Format Requirements"
CRITERIA, GIVEN, REFERENCE = "Evaluation Criteria", "Given Criteria", "Reference Answer"


class Fence:
    """Rewrites delimiters, headings and special tokens in user text, so that they are not read as the prompt's own.

    The square brackets of a delimiter become round ones, the hashes around a heading and the signs of other `marks`
    are removed, and a special token gets a space behind its first character. Case, white space, punctuation between
    words, invisible characters, accents and common look-alikes do not matter. Fencing is idempotent and takes time
    linear in the text. Not fenced: instructions in plain words, scores and boxes, role names without special tokens,
    special tokens of a single character, and marks without words or without signs.

    Args:
        special_tokens (iterable of `str`, *optional*): The tokenizer's special tokens.
        marks (tuple of `str`, *optional*):
            [`~trl_spct.judge.templates.JudgeTemplate.marks`]; those of the paper's template are always matched.
    """

    _GAP = r"[\W_]"
    # Both match from where a run of signs begins, so that a long run is never tried again from its middle.
    _DELIMITER = re.compile(
        rf"(?<!{_GAP})({_GAP}+)(?:the{_GAP}*)?(?:begin|end){_GAP}*of{_GAP}*(?:the{_GAP}*)?response"
        r"(?:(?=[^\[\]\n]{0,40}(\])))?"
    )
    _TITLE = "|".join((CRITERIA, CONTEXT, GIVEN, REFERENCE, RESPONSES, FORMAT)).lower().replace(" ", f"{_GAP}*")
    _HEADING = re.compile(rf"(?<!{_GAP}){_GAP}*(?:(?:{_TITLE}){_GAP}*)+")

    def __init__(self, special_tokens: Iterable[str] = (), marks: tuple[str, ...] = ()):
        self._marks = _marks_pattern(marks)
        if isinstance(special_tokens, str):
            special_tokens = (special_tokens,)
        tokens = {token.lstrip() for token in special_tokens if token and len(token.strip()) > 1}
        firsts = "".join(sorted({re.escape(token[0]) for token in tokens}))  # a fast filter
        words = "|".join(map(re.escape, sorted(tokens, key=len, reverse=True)))
        # Only the first character is matched, so that overlapping tokens are found.
        self._special = re.compile(f"(?=[{firsts}])(?={words})(.)", re.DOTALL) if tokens else None

    def __call__(self, text: str) -> str:
        if edits := self._edits(text.translate(_FOLDING)):
            places = [place for place, char in enumerate(text) if _FOLDING[ord(char)]]
            chars = list(text)
            for number, new in edits.items():
                chars[places[number]] = new
            text = "".join(chars)
        broken = 1
        while self._special is not None and broken:  # a broken token may spell another one
            text, broken = self._special.subn(r"\1 ", text)
        return text

    def _edits(self, folded: str) -> dict[int, str]:
        """Replacements of single characters by their place in the folded text."""
        edits: dict[int, str] = {}
        for match in self._DELIMITER.finditer(folded):
            opening = [place for place in range(*match.span(1)) if folded[place] == "["]
            edits |= dict.fromkeys(opening, "(")
            if opening and match[2]:
                edits[match.start(2)] = ")"
        for match in self._HEADING.finditer(folded):
            if match[0].count("#") > 1:
                edits |= {place: "" for place in range(*match.span()) if folded[place] == "#"}
        if self._marks is not None:
            pattern, signs = self._marks
            for match in pattern.finditer(folded):
                edits |= {place: "" for place in range(*match.span()) if folded[place] in signs}
        return edits


@lru_cache(maxsize=64)
def _marks_pattern(marks: tuple[str, ...]) -> tuple[re.Pattern, frozenset[str]] | None:
    """A pattern of the marks other than the paper's, with the signs in and around them, and those signs."""
    if not marks:
        return None
    plain = Fence()
    other = [mark.translate(_FOLDING) for mark in marks if plain(example := mark.replace("{i}", "1")) == example]
    signs = frozenset(char for mark in other for char in mark.replace("{i}", "") if re.fullmatch(r"[^\w\s]|_", char))
    if not signs:
        return None
    gap = Fence._GAP
    written = [
        rf"{gap}*".join(r"[^\W_]{1,4}" if word == "{i}" else re.escape(word) for word in words)
        for mark in other
        if (words := re.findall(r"\{i\}|[^\W_]+", mark))
    ]
    ahead, behind = rf"(?<!{gap}){gap}*", rf"{gap}*"
    return re.compile(rf"{ahead}(?:{'|'.join(sorted(written, key=len, reverse=True))}){behind}"), signs


_LOOK_ALIKES = {
    "a": "аАαΑᴀɑ", "b": "ВвΒβʙ", "c": "сСϲϹᴄ", "d": "ԁԀᴅ", "e": "еЕεΕᴇ", "f": "ғϜꜰ", "g": "ɡԌɢ", "h": "һҺНнΗʜհ",
    "i": "іІιΙɪı", "l": "ӏӀʟ", "m": "МмΜᴍ", "n": "пηΝɴո", "o": "оОοΟᴏօ", "p": "рРρΡᴘ", "q": "ԛԚ", "r": "гʀ",
    "s": "ѕЅꜱ", "t": "тТτΤᴛ", "u": "υսᴜ", "v": "νѵᴠ", "w": "ԝԜᴡ", "x": "хХχΧ",
    "[": "【〔〖〘〚⟦⁅❲「『", "]": "】〕〗〙〛⟧⁆❳」』", "#": "♯⌗", " ": "\u115f\u1160\u2800\u3164\uffa0",
}  # fmt: skip
_LOOKS = {char: letter for letter, chars in _LOOK_ALIKES.items() for char in chars}


class _Folding(dict):
    """Maps a character to the small letter or sign that it resembles, and an invisible one to nothing."""

    def __missing__(self, code: int) -> str:
        char = _LOOKS.get(chr(code), chr(code))
        visible = (part for part in unicodedata.normalize("NFKD", char) if unicodedata.category(part) not in _UNSEEN)
        first = char if char.isspace() else next(visible, "")
        self[code] = _LOOKS.get(first, first).lower()[:1]
        return self[code]


_UNSEEN = ("Cc", "Cf", "Mn", "Me")
_FOLDING = _Folding()
