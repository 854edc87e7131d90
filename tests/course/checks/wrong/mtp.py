"""Known wrong answers of lesson `mtp`, each with a piece of the message that it must get."""


def _tokens(first=0, last=1):
    return lambda p, n: sum(p**k for k in range(first, n + last))


def _shift(told, target):
    def answer(ids, depth):
        n = ids.shape[1] - depth - 1
        return ids[:, told(depth) : told(depth) + n], ids[:, target(depth) : target(depth) + n]

    return answer


def _shared(norms=3, joins=2, block=True, matrices=lambda tied: 1 if tied else 2, each=True):
    def answer(width, vocab, size, modules, tied):
        own = norms * width + joins * width * width + (size if block else 0)
        return modules * own, (modules if each else 1) * vocab * width * matrices(tied)

    return answer


def _weight(mean=True, weight=lambda read: 0.3 if read < 10e12 else 0.1, keep=1.0):
    def answer(own, ahead, read):
        if not ahead:
            return keep * own
        return keep * own + weight(read) * sum(ahead) / (len(ahead) if mean else 1)

    return answer


def _mixed(own, ahead, read):
    weight = 0.3 if read < 10e12 else 0.1
    return (1 - weight) * own + weight * sum(ahead) / max(1, len(ahead)) if ahead else own


def _depth(cost=lambda wide, n, draft: wide[n] + n * draft, alone=False, none=True, stop=False, last=False):
    def answer(chances, wide, draft):
        tokens, reached, speeds = 1.0, 1.0, [1.0]
        for n, chance in enumerate(chances, start=1):
            reached = chance if alone else reached * chance
            tokens += reached
            speeds.append(tokens / cost(wide, n, draft))
            if stop and speeds[-1] <= speeds[-2]:
                return n - 1
        allowed = range(0 if none or not chances else 1, len(speeds))
        ahead = reversed(allowed) if last else allowed
        return max(ahead, key=lambda n: round(speeds[n], 9))

    return answer


WRONG = {
    "tokens": [
        (_tokens(first=1), "the model's own token is missing"),
        (lambda p, n: 1 + n * p, "not n times p"),
        (lambda p, n: 1 + p**n, "not the last alone"),
        (_tokens(last=0), "the last guess is missing"),
        (_tokens(last=2), "one power too many"),
        (lambda p, n: (1 - p ** (n + 1)) / (1 - p), "ZeroDivisionError"),
    ],
    "shift": [
        (_shift(lambda d: d - 1, lambda d: d + 1), "told one token too early"),
        (_shift(lambda d: d, lambda d: d), "learned by copying"),
        (lambda ids, depth: (ids[:, depth + 1 :], ids[:, depth:-1]), "swapped"),
        (_shift(lambda d: 1, lambda d: 2), "right at depth 1 only"),
        (lambda ids, depth: (ids[:, depth:], ids[:, depth + 1 :]), "both have the shape"),
        (_shift(lambda d: d, lambda d: d - 1), "told is right; the target is the token behind it"),
        (lambda ids, depth: ids[:, depth:-1], "a pair (told, target)"),
    ],
    "shared": [
        (_shared(norms=2), "a norm is missing"),
        (_shared(joins=1), "the matrix takes two vectors"),
        (_shared(block=False), "the block is missing"),
        (_shared(matrices=lambda tied: 2), "a tied model has one matrix"),
        (_shared(matrices=lambda tied: 0 if tied else 2), "a copy of it for each module"),
        (_shared(matrices=lambda tied: 1), "two matrices here"),
        (_shared(each=False), "each of the modules would need"),
        (lambda *sizes: _shared()(*sizes)[::-1], "the order is own, then saved"),
        (lambda w, v, b, modules, tied: _shared()(w, v, b, 1, tied), "this is one module"),
    ],
    "weight": [
        (_weight(mean=False), "their mean is wanted"),
        (_weight(weight=lambda read: 0.3), "the weight is 0.1 after 1e+13 tokens"),
        (_weight(weight=lambda read: 0.1 if read < 10e12 else 0.3), "the weight is 0.3 after 0 tokens"),
        (_weight(keep=0.0), "the model's own loss is missing"),
        (_weight(weight=lambda read: 1.0), "no weight here"),
        (_mixed, "keeps its full weight"),
        (
            lambda own, ahead, read: own + (0.3 if read < 10e12 else 0.1) * sum(ahead) / len(ahead),
            "ZeroDivisionError",
        ),
    ],
    "depth": [
        (_depth(none=False), "0 is an answer"),
        (_depth(stop=True), "compare them all before you stop"),
        (_depth(cost=lambda wide, n, draft: wide[n]), "the guesses themselves cost nothing"),
        (_depth(cost=lambda wide, n, draft: 1 + n * draft), "the wider pass costs nothing"),
        (_depth(cost=lambda wide, n, draft: wide[n] + min(n, 1) * draft), "n guesses cost n times"),
        (_depth(alone=True), "a guess needs all before it"),
        (_depth(last=True), "of equals the fewest"),
        (lambda chances, wide, draft: len(chances), "the most tokens per pass are not the fastest"),
        (lambda chances, wide, draft: 9, "9 guesses are not among"),
        (lambda chances, wide, draft: 0.5, "a whole number"),
    ],
}
