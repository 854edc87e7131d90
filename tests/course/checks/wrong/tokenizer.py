"""Known wrong answers of lesson `tokenizer`, each with a piece of the message that it must get."""


def _length(*borders):
    """A count of bytes with the borders given, in code points."""
    return lambda text: sum(1 + sum(ord(sign) > border for border in borders) for sign in text)


def _encode(choose, once=False):
    """An encoder that merges one pair at a time, at the place that ``choose`` takes."""

    def encode(ids, merges):
        while places := [place for place in range(len(ids) - 1) if (ids[place], ids[place + 1]) in merges]:
            place = choose(places, lambda place: merges[ids[place], ids[place + 1]])
            ids[place : place + 2] = [merges[ids[place], ids[place + 1]]]
            if once:
                break
        return ids

    return encode


def _powers(sizes, alpha):
    return {name: size**alpha for name, size in sizes.items()}


def _shares(powers):
    return {name: power / sum(powers.values()) for name, power in powers.items()}


def _late(pieces):
    """Shows nothing before all that came is whole."""
    shown, held = [], b""
    for piece in pieces:
        held += piece
        try:
            shown.append(held.decode())
            held = b""
        except UnicodeDecodeError:
            shown.append("")
    return shown


WRONG = {
    "utf8": [
        (len, "counts code points"),
        (lambda text: len(text.encode()), "encode() is what you are rebuilding"),
        (_length(0x80, 0x7FF, 0xFFFF), "U+0080 is the first code point that needs 2"),
        (_length(0x7F, 0x7FE, 0xFFFF), "U+07FF is the last code point that fits 2"),
        (_length(0x7F, 0x7FF), "U+10000 is the first code point that needs 4"),
        (lambda text: None, "its last line a return"),
    ],
    "encode": [
        (lambda ids, merges: ids, "nothing was merged"),
        (_encode(lambda places, new: places[0]), "the leftmost pair"),
        (_encode(lambda places, new: max(places, key=new)), "what was learned last"),
        (_encode(lambda places, new: min(places, key=new), once=True), "a pair that can be merged is left"),
        (lambda ids, merges: " ".join(map(str, ids)), "a list of token ids is expected"),
    ],
    "shares": [
        (_powers, "divide by their sum"),
        (lambda sizes, alpha: _powers(_shares(sizes), alpha), "no longer sum to 1"),
        (lambda sizes, alpha: _shares(sizes), "is not used"),
        (lambda sizes, alpha: _shares(_powers(sizes, alpha)), "without any text"),
        (lambda sizes, alpha: _shares(_powers(sizes, 1 / alpha if alpha else 0)), "that sharpens"),
        (lambda sizes, alpha: list(sizes.values()), "a dict with a share for every language"),
    ],
    "stream": [
        (lambda pieces: [piece.decode(errors="replace") for piece in pieces], "U+FFFD is shown"),
        (lambda pieces: [piece.decode(errors="ignore") for piece in pieces], "dropped or doubled"),
        (lambda pieces: b"".join(pieces).decode(), "a list with one text for each piece"),
        (lambda pieces: list(b"".join(pieces).decode()), "texts are expected"),
        (_late, "right in the end, and late"),
        (list, "each entry is a text"),
    ],
}
