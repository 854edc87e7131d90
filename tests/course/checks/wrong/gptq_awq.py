"""Known wrong answers of lesson `gptq_awq`, each with a piece of the message that it must get."""

import torch


def _step(divide=lambda error, diagonal: error / diagonal, sign=1, row=lambda upper, j: upper[j, j:], settle=False):
    def answer(left, j, value, upper):
        after = left.clone()
        by = divide(left[:, j] - value, upper[j, j])[:, None]
        after[:, j:] -= sign * by * row(upper, j)
        if settle:
            after[:, j] = value
        return after

    return answer


def _whole_column(left, j, value, upper):
    return left - ((left[:, j] - value) / upper[j, j])[:, None] * upper[:, j]


def _in_place(left, j, value, upper):
    left[:, j:] -= ((left[:, j] - value) / upper[j, j])[:, None] * upper[j, j:]
    return left


def _order(descending=True, rows=True, columns=True, back=lambda order: order.argsort(), key=None):
    def answer(weight, hessian, rounder):
        diagonal = hessian.diagonal() if key is None else key(weight)
        order = diagonal.argsort(descending=descending)
        h = hessian[order] if rows else hessian
        made = rounder(weight[:, order], h[:, order] if columns else h)
        return made[:, back(order)]

    return answer


def _each_column_alone(weight, hessian, rounder):
    parts = [rounder(weight[:, [j]], hessian[[j]][:, [j]]) for j in range(weight.shape[1])]
    rounder(weight, hessian)
    return torch.cat(parts, dim=1)


def _search(pick=min, scale=lambda size, alpha: size**alpha, over=lambda s: (s.max() * s.min()).sqrt()):
    def answer(size, error, alphas):
        scales = {alpha: scale(size, alpha) / over(scale(size, alpha)) for alpha in alphas}
        best = pick(alphas, key=lambda alpha: error(scales[alpha]))
        return best, scales[best]

    return answer


def _diagonal_alone(weight, hessian, rounder):
    order = hessian.diagonal().argsort(descending=True)
    return rounder(weight[:, order], hessian[order, order])[:, order.argsort()]


def _divided_after(size, error, alphas):
    alpha = min(alphas, key=lambda alpha: error(size**alpha))
    s = size**alpha
    return alpha, s / (s.max() * s.min()).sqrt()


def _last(size, error, alphas):
    s = size ** alphas[-1]
    return alphas[-1], s / (s.max() * s.min()).sqrt()


def _harm(error=lambda made, weight, own, real: (real @ (made - weight).T).square().sum(), ratio=None, on=None):
    def answer(weight, texts, real, rounder, nearest):
        result = {}
        for name, x in texts.items():
            made = rounder(weight, x if on is None else real)
            pair = error(made, weight, x, real), error(nearest, weight, x, real)
            result[name] = (pair[0] / pair[1] if ratio is None else ratio(*pair)).item()
        return result

    return answer


WRONG = {
    "cost": [
        (lambda weight, made, x: (made - weight).square().sum(dim=1), "how far the weights are off"),
        (lambda weight, made, x: (x @ (made - weight).T).square().sum(dim=0), "a mean over them"),
        (lambda weight, made, x: (x @ (made - weight).T).mean(dim=0).square(), "square first"),
        (lambda weight, made, x: (x @ (made - weight).T).abs().mean(dim=0), "squares are asked"),
        (lambda weight, made, x: (x @ made.T).square().mean(dim=0), "size of the new answers"),
        (lambda weight, made, x: (x @ (made - weight).T).square().mean(), "has the shape"),
    ],
    "step": [
        (_step(divide=lambda error, diagonal: error), "does not even become"),
        (_step(divide=lambda error, diagonal: error, settle=True), "what is passed on is not divided"),
        (_step(sign=-1, settle=True), "the wrong way"),
        (_whole_column, "speaks of the columns before"),
        (_step(row=lambda upper, j: upper[j:, j]), "nothing was passed on"),
        (_in_place, "work on a clone"),
        (_step(divide=lambda error, diagonal: error / diagonal**2), "twice"),
    ],
    "order": [
        (_order(descending=False), "smallest first"),
        (_order(back=lambda order: torch.arange(len(order))), "still in the order of rounding"),
        (_order(back=lambda order: order), "not order once more"),
        (_order(rows=False, columns=False), "the Hessian is not"),
        (_order(columns=False), "columns are not"),
        (_order(key=lambda weight: weight.square().sum(dim=0)), "the inputs decide"),
        (lambda weight, hessian, rounder: rounder(weight, hessian), "as they stand"),
        (_each_column_alone, "once is enough"),
        (_diagonal_alone, "hessian[order][:, order]"),
    ],
    "search": [
        (_search(over=lambda s: 1), "is not divided by the root"),
        (_search(pick=max), "largest error of all"),
        (_last, "always the last alpha"),
        (_divided_after, "divide by the root first"),
        (lambda size, error, alphas: _search()(size, error, alphas)[::-1], "one number first"),
        (_search(scale=lambda size, alpha: size**-alpha), "upside down"),
        (_search(over=lambda s: s.mean()), "divided by its mean"),
        (lambda size, error, alphas: min(alphas, key=lambda alpha: error(size**alpha)), "a pair (alpha, s)"),
    ],
    "harm": [
        (_harm(error=lambda made, weight, own, real: (own @ (made - weight).T).square().sum()), "always looks good"),
        (_harm(ratio=lambda mine, theirs: theirs / mine), "upside down"),
        (_harm(ratio=lambda mine, theirs: (mine / theirs).sqrt()), "squares are compared"),
        (_harm(ratio=lambda mine, theirs: mine), "not divided by the error of `nearest`"),
        (_harm(ratio=lambda mine, theirs: mine - theirs), "their ratio is asked"),
        (_harm(error=lambda made, weight, own, real: (real @ (made - weight).T).abs().sum()), "squares are asked"),
        (_harm(on="real"), "each text is to be tried"),
        (_harm(error=lambda made, weight, own, real: (made - weight).square().sum()), "how far the weights moved"),
        (lambda weight, texts, real, rounder, nearest: 1.0, "a dictionary with the names"),
    ],
}
