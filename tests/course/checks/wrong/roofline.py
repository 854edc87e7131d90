"""Known wrong answers of lesson `roofline`, and what each must be told."""


def _time(chip, flops, moved):
    return max(flops / chip[0], moved / chip[1])


WRONG = {
    "matvec_intensity": [
        (lambda i, o, size: size * (i * o + i + o) / (2 * i * o), "other way up"),
        (lambda i, o, size: i * o / (size * (i * o + i + o)), "two operations"),
        (lambda i, o, size: 2 / size, "weights only"),
        (lambda i, o, size: 2 * i * o / (i * o + i + o), "FLOP per number"),
        (lambda i, o, size: 12 / 44, "outputs = 1, bytes_each = 4 it should be 0.166667, you have 0.272727"),
        (lambda i, o, size: round(2 * i * o / (size * (i * o + i + o)), 3), "do not round"),
        (lambda i, o, size: None, "returns nothing"),
        (lambda i, o, size: "0.27", "one number is expected"),
    ],
    "tokens_per_s": [
        (lambda count, bits, rate: count * bits / 8 / rate, "other way up"),
        (lambda count, bits, rate: rate / (count * bits), "bits for bytes"),
        (lambda count, bits, rate: rate / count, "number of parameters"),
        (lambda count, bits, rate: rate / (2 * count * bits / 8), "2 FLOP per weight"),
        (lambda count, bits, rate: 1.25, "it should be 50, you have 1.25"),
    ],
    "ridge_batch": [
        (lambda flops, rate, bits: rate / flops * bits / 16, "bandwidth over FLOP/s"),
        (lambda flops, rate, bits: flops / rate, "the ridge itself"),
        (lambda flops, rate, bits: flops / rate * bits / 8, "one operation"),
        (lambda flops, rate, bits: flops / rate * bits / 2, "bits for bytes"),
        (lambda flops, rate, bits: 7.2, "it should be 7.6, you have 7.2"),
    ],
    "fastest": [
        (lambda chips, f, b: max(chips, key=lambda n: _time(chips[n], f, b)), "slowest"),
        (lambda chips, f, b: max(chips, key=lambda n: chips[n][0]), "FLOP/s only"),
        (lambda chips, f, b: max(chips, key=lambda n: chips[n][1]), "bandwidth only"),
        (lambda chips, f, b: min(chips, key=lambda n: f / chips[n][0] + b / chips[n][1]), "add the two times"),
        (lambda chips, f, b: min(chips, key=lambda n: min(f / chips[n][0], b / chips[n][1])), "shorter of the two"),
        (lambda chips, f, b: next(iter(chips)), "cases"),
        (lambda chips, f, b: 0, "name of a chip"),
        (lambda chips, f, b: [*chips][-1] if f < 100 else None, "you return None"),
    ],
}
