# %% [markdown]
# # One tokenizer, 200 languages
#
# **Who pays more tokens for the same sentence?**
#
# 60 minutes · needs: lesson [[open_a_model]] (the three files of a model) · runs on any laptop, without a network
#
# A model neither reads nor writes letters. It reads numbers that stand for pieces of text, and it is paid, slowed down
# and limited by the piece. You will build the program that cuts the pieces, hold it against the library that real
# models use, and then send the same twenty lines through it in more than 230 languages.
#
# ```text
#     "ana ananas"
#          |  pattern                 which signs may share a piece
#          v
#     "ana"   " ananas"               words
#          |  UTF-8                   1 to 4 bytes a sign, 256 kinds of bytes: nothing is unknown
#          v
#     a n a   _ a n a n a s           bytes
#          |  merges, in the order in which they were learned
#          v
#     [ana]   [_][ana][n][as]         tokens: what the model sees, and what is billed
# ```

# %% tags=["parameters"]
scale = "laptop"  # "smoke" for a check in seconds, "laptop" for 2 CPU cores, "full" for larger vocabularies
checkpoint = "zoo"  # or a Hugging Face id, or a folder: the same cells with the tokenizer of a real model
device = "auto"
seed = 0

# %%
from transformers import AutoTokenizer

from course.begin import begin
from course.checks import tokenizer as check
from helpers.bpe import BYTES, LETTERS, LETTERS_AND_MARKS, count_words, from_tokenizers, learn, split, to_tokenizers
from helpers.checkpoints import resolve
from helpers.plots import show
from helpers.plots import tokens as draw

device = begin(scale, checkpoint, device, seed)
# The tokenizer alone: of a model on the hub, its weights stay where they are.
tokenizer = AutoTokenizer.from_pretrained(resolve(checkpoint) if checkpoint.startswith("zoo") else checkpoint)

# %% [markdown]
# ## By hand
#
# Three words, and how often each stands in a tiny text: *banana* 3 times, *bandana* twice, *ananas* once. **Byte pair
# encoding** asks one question again and again: which two neighbours stand side by side most often? They become a new
# piece. Count the pairs on paper before you run the cell: every *an*, *na*, *ba*, ...

# %%
from itertools import pairwise

tiny = {"banana": 3, "bandana": 2, "ananas": 1}
counts = {}
for word, times in tiny.items():
    for left, right in pairwise(word):
        counts[left + right] = counts.get(left + right, 0) + times
print(counts)

# %% [markdown]
# *an* stands 12 times, *na* 10 times. So `an` is the first merge. Now spell the words with it: `b|an|an|a`,
# `b|an|d|an|a`, `an|an|a|s`. Something has happened to the runner-up. Every *na* shared its *n* with an *an*, and not
# one is left. Counts must be taken after each merge, for the text as it is then.
#
# Next come `an|a` with 3 + 2 + 1 = 6, then `b|an` with 3 + 2 = 5. Three merges, and *banana* has gone from six pieces
# to two: `ban|ana`.

# %% [markdown]
# ## Predict
#
# The tokenizer of this notebook (unless you chose another) was learned from the source code of Python: English words,
# and no other language. You are about to give it the same calendar in more than 230 languages: seven days, twelve
# months, one date. Three guesses.

# %% tags=["predict:price"]
worst_ratio = ...  # the language that pays most: how many times the tokens of English?
below_english = ...  # how many of the other languages need fewer tokens than English?
english_pays = ...  # a tokenizer that is fair to all: how many percent more tokens for English docstrings?
# BEGIN SOLUTION
worst_ratio = 10
below_english = 5
english_pays = 30
# END SOLUTION
check.predict("tokenizer.worst", worst_ratio, unit="x")
check.predict("tokenizer.below", below_english, unit="languages")
check.predict("tokenizer.english_pays", english_pays, unit="%")

# %% [markdown]
# ## Build
#
# ### 1. Bytes: nothing is unknown
#
# A vocabulary of words meets new words, and a vocabulary of letters meets new letters: Unicode has more than 100,000.
# **UTF-8** writes each of them with one to four bytes, and there are only 256 bytes. Begin with these, and no text on
# earth is unknown. The price is visible at once.

# %%
for text in ["Monday", "Montag", "понедельник", "सोमवार", "วันจันทร์", "星期一", "ሰኞ"]:
    data = text.encode()
    print(f"{text:12} {len(text):3} signs {len(data):3} bytes  {data[:9].hex(' ')}")

# %% [markdown]
# Latin letters take one byte, accents, Cyrillic and Arabic two, the scripts of India, Thailand, China and Ethiopia
# three. UTF-8 gave the short codes to those who came first. A tokenizer that has learned nothing about a script pays
# one token for every byte of it.
#
# ### 2. Words: where no merge may pass
#
# Merging across blanks would learn whole phrases. So a **pattern** cuts the text first, and merges stay inside its
# pieces. That is a decision about languages. Here is the pattern of Qwen3, then the one of Qwen3.5.

# %%
for text in ["it's 2026, isn't it?", "हिन्दी में सोमवार", "วันจันทร์"]:
    for name, pattern in {"Qwen3": LETTERS, "Qwen3.5": LETTERS_AND_MARKS}.items():
        print(f"{name:8}", " | ".join(split(text, pattern)))

# %% [markdown]
# The older pattern knows letters (`\p{L}`) and takes a vowel sign of Hindi or Thai (`\p{M}`, a *mark*) for something
# else: it cuts words at their vowels, and no merge can ever mend the cut. The newer pattern has `[\p{L}\p{M}]`. Four
# characters in a regular expression decide whether a Hindi word can be one token.
#
# ### 3. Count the pairs
#
# A word is now a row of token ids, at first one for each byte. `BYTES` lists them: the bytes that can be printed come
# first, as in the library.

# %%
identity = {byte: number for number, byte in enumerate(BYTES)}


def spell(word: str) -> tuple:
    """The word as ids of its bytes."""
    return tuple(identity[bytes([byte])] for byte in word.encode())


def count_pairs(words: dict) -> dict:
    """Pair of neighbours -> how often it stands in the text; ``words`` maps rows of ids to how often they stand."""
    counts = {}
    for ids, times in words.items():
        for pair in pairwise(ids):
            counts[pair] = counts.get(pair, 0) + times
    return counts


# %%
rows = {spell(word): times for word, times in tiny.items()}
for pair, times in count_pairs(rows).items():
    print(BYTES[pair[0]] + BYTES[pair[1]], times)

# %% [markdown]
# ### 4. Merge one pair
#
# From left to right: where the last piece and the next token are the pair, they become the new token. Look at a row of
# five equal tokens: the first two merge, then the next two, and one is left.


# %%
def merge(ids: tuple, pair: tuple, new: int) -> tuple:
    merged = []
    for token in ids:
        if merged and (merged[-1], token) == pair:
            merged[-1] = new
        else:
            merged.append(token)
    return tuple(merged)


print(merge((7, 7, 7, 7, 7), (7, 7), 300))

# %% [markdown]
# ### 5. Learn
#
# Count, take the most frequent pair, merge it everywhere, again. When two pairs stand equally often, the one with the
# smaller ids goes first: any rule would do, and it must be the same rule everywhere.


# %%
def train(words: dict, merges: int) -> tuple:
    """(bytes of each token, pairs in the order in which they were learned)."""
    rows = {spell(word): times for word, times in words.items()}
    tokens, learned = list(BYTES), []
    while len(learned) < merges and (counts := count_pairs(rows)):
        pair = min(counts, key=lambda pair: (-counts[pair], pair))
        rows = {merge(ids, pair, len(tokens)): times for ids, times in rows.items()}
        tokens.append(tokens[pair[0]] + tokens[pair[1]])
        learned.append(pair)
    return tokens, learned


tokens, learned = train(tiny, merges=8)
print(tokens[256:])

# %% [markdown]
# `an`, `ana`, `ban`: the three that you found by hand, then larger pieces, until each word is one token. This loop
# counts everything anew for each merge. The helper `learn` corrects the counts of the words that changed, and finds the
# same merges, thousands of them, in seconds.
#
# ### 6. Encode and decode
#
# New text gets the merges **in the order in which they were learned**. Decoding is the easy direction: put the bytes
# one behind another.


# %%
def encode(word: str, learned: list) -> tuple:
    ids = spell(word)
    for rank, pair in enumerate(learned):
        ids = merge(ids, pair, 256 + rank)
    return ids


for word in ["banana", "ban", "bandanas", "Kanada", "ባናና"]:
    ids = encode(word, learned)
    print(f"{word:9}", [tokens[number] for number in ids], b"".join(tokens[number] for number in ids).decode())

# %% [markdown]
# The Ethiopic word was never seen. It costs nine tokens, one per byte, and it comes back whole. Real encoders do not
# walk through 200,000 merges for each word: they look which pairs of the word have a rank and take the lowest. You
# write that one in exercise 2.

# %% [markdown]
# ## Check
#
# ### Against the library
#
# `tokenizers` is the library inside transformers. Your `train` must find the helper's merges, and the helper's merges
# in the library must give the helper's ids. The text is the calendar in eight languages, then the awkward kind.

# %%
from helpers.data.parallel import calendar_texts, language_name, script

calendars = calendar_texts()
some = count_words(calendars[locale] for locale in ["en", "de", "tr", "hi", "th", "zh", "ar", "am"])
tokens, learned = train(some, merges=150)
ours = learn(some, 256 + 150)
print("your merges are the helper's:", (tuple(tokens), tuple(learned)) == (ours.tokens, ours.merges))

# %%
library = to_tokenizers(ours)
awkward = ["", "   \n\n\t", "aaaaaaa", "e\u0301té", "👩‍👩‍👧", "\x00\x7f", "שלום", "x = 10**9", *calendars.values()]
same = [ours.encode(text) == library.encode(text).ids for text in awkward]
back = [ours.decode(ours.encode(text)) == text for text in awkward]
print(f"{sum(same)} of {len(awkward)} texts: the same ids; {sum(back)}: the same text again")
assert all(same + back)

# %% [markdown]
# The same must hold for merges that somebody else has learned: those of the checkpoint, out of its `tokenizer.json`.
# (Some tokenizers bring a text into a normal form first; that step stays the library's.)

# %%
theirs = tokenizer.backend_tokenizer
normal = theirs.normalizer.normalize_str if theirs.normalizer else str
published = from_tokenizers(theirs)
same = [published.encode(normal(text)) == theirs.encode(text, add_special_tokens=False).ids for text in awkward]
print(f"{len(published.tokens):,} tokens, {len(published.merges):,} merges: {sum(same)} of {len(awkward)} texts agree")

# %% [markdown]
# ### A bug that looks like success
#
# Why not take the longest known piece, from left to right? It needs no ranks, and it loses nothing either.


# %%
def longest_first(word: str, known: set) -> list:
    data, pieces = word.encode(), []
    while data:
        size = next(size for size in range(len(data), 0, -1) if data[:size] in known)
        pieces.append(data[:size])
        data = data[size:]
    return pieces


known = set(ours.tokens)
other = [word for word in some if longest_first(word, known) != ours.pieces(ours.encode_word(word))]
print(f"{len(other)} of {len(some)} words are cut differently, and every one decodes to itself")
for word in other[:3]:
    print(f"{word!r}: {[draw.piece_name(piece) for piece in longest_first(word, known)]} instead of", end=" ")
    print([draw.piece_name(piece) for piece in ours.pieces(ours.encode_word(word))])

# %% [markdown]
# A round trip proves that no byte was lost, and says nothing about the cut. A model that was trained on one cut and is
# served with another still answers, a little worse, and no error tells you. Equal ids are the test.

# %% [markdown]
# ## Measure
#
# ### The same text in 230 languages
#
# To compare prices you need the same text in every language. The Unicode consortium keeps one: CLDR, the table from
# which phones and computers take their dates. Monday to Sunday, January to December, and *Thursday, 5 February 2026*.

# %%
cut = {locale: tokenizer(text, add_special_tokens=False, verbose=False) for locale, text in calendars.items()}
count = {locale: len(encoding.input_ids) for locale, encoding in cut.items()}
size = {locale: len(normal(text).encode()) for locale, text in calendars.items()}
ratio = {locale: count[locale] / count["en"] for locale in calendars}
order = sorted(ratio, key=ratio.get)
print(f"{len(calendars)} locales in {len({locale.split('_')[0] for locale in calendars})} languages")
for locale in dict.fromkeys([*order[:3], "en", "de", "zh", "hi", *order[-4:]]):
    text = calendars[locale].split("\n")
    print(f"{language_name(locale):28} {count[locale]:5} tokens {ratio[locale]:6.2f} x English   {text[0]}, {text[7]}")

# %%
cheaper = [locale for locale in ratio if ratio[locale] < 1]
print("the language that pays most:")
check.reveal("tokenizer.worst", machine=ratio[order[-1]], unit="x")
print("cheaper than English:", ", ".join(map(language_name, cheaper)) or "none")
check.reveal("tokenizer.below", machine=len(cheaper), unit="languages")

# %% [markdown]
# The same dates, and a bill that differs by such a factor. The factor is not money alone. A token is a step of the
# model, a row of its cache (lesson [[open_a_model]]), a place in its context: who needs three times the tokens waits
# three times as long, fills the memory three times as fast, and has a third of the context.
#
# ### Where the price comes from
#
# Plot tokens against bytes. On the dashed line every byte is a token: nothing about that language was learned.

# %%
from numpy import median

group = {locale: script(text) for locale, text in calendars.items()}
names = {locale: language_name(locale) for locale in calendars}


def named(values: dict) -> dict:
    return {names[locale]: value for locale, value in values.items()}


paid = [count[locale] / size[locale] for locale in size]
finding = f"{median(paid):.2f} tokens per byte in the median language, {count['en'] / size['en']:.2f} in English"
show(draw.tokens_against_bytes(named(size), named(count), named(group), finding))

# %% [markdown]
# Two prices lie on top of each other. **UTF-8** sets the number of bytes, two or three times as many outside the Latin
# script; no tokenizer can change it. **Training** decides how many bytes a token holds. The first is the ceiling of
# what you pay, and the second is how far you stay below it.
#
# ### Balance
#
# Now learn a vocabulary of the same size from other text: names of countries, languages and units in the same
# languages. The calendar itself stays unseen. Balanced means that **each language brings the same number of bytes**:
# its words count more where there are fewer of them.

# %%
from helpers.data import cldr_facts, python_corpus

per_language, files = {"smoke": (25, 25), "laptop": (100, 8), "full": (10_000, 1)}[scale]
examples = {locale: [] for locale in calendars}
for fact in cldr_facts(["territory", "language", "unit"], calendars):
    examples[fact.locale].append(fact.answer)
thinned = {locale: texts[:: 1 + len(texts) // per_language] for locale, texts in examples.items()}
languages = {locale: count_words(texts, LETTERS_AND_MARKS) for locale, texts in thinned.items()}
code = count_words(list(python_corpus().train.values())[::files], LETTERS_AND_MARKS)
print(f"{sum(map(len, languages.values())):,} words of {len(languages)} languages, {len(code):,} words of Python")


# %%
def weigh(words: dict, total: float) -> dict:
    """The same words, counted so that the text has ``total`` bytes. What rounds to nothing is left out."""
    times = total / max(1, sum(len(word.encode()) * times for word, times in words.items()))
    return {word: round(count * times) for word, count in words.items() if round(count * times)}


def mixture(balanced: float, total: float = 1e8) -> dict:
    """Words for training: so much of the text from all languages equally, the rest from Python."""
    words = weigh(code, total * (1 - balanced))
    for own in languages.values():
        for word, times in weigh(own, total * balanced / len(languages)).items():
            words[word] = words.get(word, 0) + times
    return words


# %% [markdown]
# At a balance of 0 you get a tokenizer of the old kind, at 1 each language has an equal part, and Python has none.
# Learn a few on the way, with one vocabulary size for all.

# %%
vocab_size = {"smoke": 400, "laptop": 2048, "full": 8192}[scale]
steps = {"smoke": [0, 1], "laptop": [0, 0.25, 0.5, 0.75, 1], "full": [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1]}[scale]
learned = {step: learn(mixture(step), vocab_size, LETTERS_AND_MARKS) for step in steps}
for step, bpe in learned.items():
    print(f"{step:4.0%} balanced, the last tokens:", [draw.piece_name(piece) for piece in bpe.tokens[-6:]])

# %%
counted = {locale: count_words([text], LETTERS_AND_MARKS) for locale, text in calendars.items()}
bills = {step: {locale: bpe.count(words) for locale, words in counted.items()} for step, bpe in learned.items()}
ratios = {step: {locale: bill[locale] / bill["en"] for locale in bill} for step, bill in bills.items()}
print("balanced   English tokens   median ratio   highest ratio")
for step in steps:
    found = list(ratios[step].values())
    print(f"{step:8.0%} {bills[step]['en']:16} {median(found):14.2f} {max(found):15.2f}")

# %% [markdown]
# Here is the poster of this lesson: each mark is a language, open before and filled after. Move over a mark to see its
# name.

# %%
before, after = list(ratios[0].values()), list(ratios[1].values())
finding = f"The highest price falls from {max(before):.1f} to {max(after):.1f} times English, the median from"
finding += f" {median(before):.1f} to {median(after):.1f}"
labels = ["learned from Python", "learned from all equally"]
show(draw.price_by_script(named(ratios[0]), named(ratios[1]), named(group), finding, labels))

# %% [markdown]
# ### Who pays for it?
#
# A vocabulary has a fixed number of places. Each one that goes to Amharic is taken from somebody. Python files that no
# training saw tell what the old owners lose: the code itself, and the English prose between its triple quotes.

# %%
held_out = list(python_corpus().held_out.values())[:: 4 * files]
prose = [part for text in held_out for part in text.split('"""')[1::2]]
texts = {"Python files": held_out, "English docstrings": prose, "all calendars together": calendars.values()}
lines = {}
for name, unseen in texts.items():
    words = count_words(unseen, LETTERS_AND_MARKS)
    totals = [bpe.count(words) for bpe in learned.values()]
    lines[name] = [total / totals[0] for total in totals]

# %%
for name, values in lines.items():
    print(f"{name:24}", "  ".join(f"{step:.0%}: {value:.2f}" for step, value in zip(steps, values, strict=True)))
last = {name: 100 * (values[-1] - 1) for name, values in lines.items()}
finding = (
    f"All languages together {last['all calendars together']:+.0f} %, English prose {last['English docstrings']:+.0f} %"
)
show(draw.who_pays(steps, lines, finding))
check.reveal("tokenizer.english_pays", machine=last["English docstrings"], unit="%")

# %% [markdown]
# Look at the first step, not at the last. The first quarter of balanced text buys most of what the languages can gain,
# and costs Python little of what it can lose. Fairness is cheap at first and dear at the end: a curve, and a place on
# it that somebody chose.
#
# ### Buy more places
#
# There is another way out: a larger vocabulary. Below are your two tokenizers, and the real ones of Qwen3 and Qwen3.5,
# counted on these same calendars and **recorded** (`helpers/facts/tokenizers.toml` names the source and the day).

# %%
from helpers.data.parallel import same_texts
from helpers.facts import table as facts
from helpers.recorded import moved

recorded = facts("tokenizers")
both = same_texts(
    calendars, recorded[0]["calendar_sha256"]
)  # the calendars that CLDR still writes as they were counted
if note := moved(recorded[0]["recorded_with"]):
    print(f"{note}: {len(both)} of {len(recorded[0]['calendar_sha256'])} calendars are the same, and they are compared")
rows = {
    "yours, Python": (vocab_size, bills[0]),
    "yours, balanced": (vocab_size, bills[1]),
    **{f"{row['tokenizer']} (recorded)": (row["vocabulary"], row["calendar_tokens"]) for row in recorded},
}
print("tokenizer              vocabulary  English  median ratio  highest ratio")
for name, (vocabulary, bill) in rows.items():
    found = [bill[locale] / bill["en"] for locale in both]
    print(f"{name:22} {vocabulary:10,} {bill['en']:8} {median(found):13.2f} {max(found):14.2f}")

# %%
qwen = {locale: rows["Qwen3.5 (recorded)"][1][locale] for locale in both}
bare = [locale for locale in qwen if qwen[locale] >= 0.9 * len(calendars[locale].encode())]
print(f"Qwen3.5 cuts {len(bare)} of {len(qwen)} calendars into bytes, almost or entirely:")
print("   ", ", ".join(f"{language_name(locale)} ({qwen[locale]} tokens)" for locale in bare))

# %% [markdown]
# A far larger vocabulary makes the text of most languages shorter, and English most of all: the *ratio* rises.
# And for the scripts in the last line no token was learned. Their speakers pay what UTF-8 says.
#
# ### The price of a sentence
#
# Providers bill by the token, so the ratio is the ratio of the bills, whatever the price. For one sum in money,
# `helpers/facts/prices.toml` has a list price of Qwen3.5-397B-A17B with its source and day.

# %%
price = facts("prices")[0]
context = next(row["context"] for row in facts("models") if row["model"] == price["model"])
print(f"{price['model']} at {price['provider']}: {price['input_usd_per_million']} USD for a million tokens read")
print(f"a million calendars read            tokens      USD   calendars in a context of {context:,}")
known = [locale for locale in ["en", "zh", "de", "hi", "sw", "am"] if locale in qwen]
for locale in [*known, max(qwen, key=qwen.get)]:
    cost = qwen[locale] * price["input_usd_per_million"]
    print(f"{language_name(locale):32} {qwen[locale]:9} {cost:8.2f} {context // qwen[locale]:12,}")

# %% [markdown]
# ### A line of the ledger
#
# The article reports that Qwen3.5 handles about two hundred languages. What does this lesson settle?

# %%
from helpers.claims.ledger import claim

entry = claim("many-languages")
whole = sum(tokenizer.decode(cut[locale].input_ids) == normal(text) for locale, text in calendars.items())
print(f"{entry.says}\n    you measured: {whole} of {len(calendars)} calendars come back whole from your tokenizer,")
print(f"    at {ratio[order[0]]:.2f} to {ratio[order[-1]]:.2f} times the tokens of English")
print(f"    the ledger says: {entry.verdict}")
for verdict in entry.verdicts[-1:]:
    print("       ", verdict.because.replace("; ", ";\n        "))

# %% [markdown]
# A tokenizer learned from Python alone writes every one of these languages. To *write* two hundred languages is free.
# To *know* them is another matter: lesson [[town_hall]] asks for answers, and counts the right ones.

# %% [markdown]
# ## Play
#
# 1. English, Python's tokenizer: move the merges from 0 up. Where does *Thursday* stop falling apart?
# 2. Hindi or Thai, the same tokenizer: what do 1,500 merges change? Now the balanced one.
# 3. Find a language for which even the balanced tokenizer cuts inside characters (hex instead of letters).

# %%
from helpers.plots.widgets import Choice, Slider, explore

locale_of = {name: locale for locale, name in sorted(names.items(), key=lambda entry: entry[1])}
kinds = {"Python": learned[0], "balanced": learned[1]}
most = min(len(bpe.merges) for bpe in kinds.values())


def date_in(language, trained_on, merges):
    text = calendars[locale_of[language]].split("\n")[-1]
    bpe = kinds[trained_on].first(merges)
    pieces, english = bpe.pieces(bpe.encode(text)), bpe.encode(calendars["en"].split("\n")[-1])
    times = len(pieces) / len(english)
    title = f"{language}, {merges} merges: {len(pieces)} tokens, {times:.1f} times English ({len(english)})"
    return draw.pieces_of(pieces, title)


explore(
    date_in,
    language=Choice(list(locale_of), label="language", value="Hindi"),
    trained_on=Choice(list(kinds), label="learned from"),
    merges=Slider(0, most, value=most // 2, label="merges"),
)

# %% [markdown]
# <details><summary>What to notice</summary>
#
# 1. Whole words of English appear early, since code is full of English; names of days are rarer in it than `return`.
# 2. Next to nothing: a merge that never stood in the training text helps nobody. With balance, syllables appear.
# 3. Try scripts that one language alone uses. Its share of the training text is one part in some 250.
#
# </details>

# %% [markdown]
# ## Exercises
#
# ### 1. Warm-up: the length of a text in UTF-8 (4 minutes, difficulty 1)
#
# Code points up to U+007F take one byte, up to U+07FF two, up to U+FFFF three, all others four. Count the bytes of a
# text from its code points, without `encode`.


# %% tags=["exercise:utf8", "points:1"]
def utf8_bytes(text: str) -> int:
    # BEGIN SOLUTION
    points = [ord(sign) for sign in text]
    return sum(1 + (point > 0x7F) + (point > 0x7FF) + (point > 0xFFFF) for point in points)
    # END SOLUTION


# %% tags=["check:utf8"]
check.utf8(utf8_bytes)

# %% [markdown]
# ### 2. Core: encode by rank (9 minutes, difficulty 2)
#
# `ids` are the bytes of one word, `merges` maps a pair to the id of its new token. New ids grow in the order of
# learning. Merge until nothing can be merged, and never walk through all merges: a real vocabulary has 248,000.


# %% tags=["exercise:encode", "points:2"]
def encode_by_rank(ids: list, merges: dict) -> list:
    # BEGIN SOLUTION
    while known := [pair for pair in pairwise(ids) if pair in merges]:
        first = min(known, key=merges.get)
        place = list(pairwise(ids)).index(first)
        ids = [*ids[:place], merges[first], *ids[place + 2 :]]
    return ids
    # END SOLUTION


# %% tags=["check:encode"]
check.encode(encode_by_rank)

# %% [markdown]
# ### 3. Core: between as found and equal (7 minutes, difficulty 2)
#
# The web has far more English than Yoruba, and equal parts would repeat the same few Yoruba pages. Many multilingual
# models go between: a language gets a share in proportion to (its size) to the power alpha. At 1 it is
# the text as found, at 0 all are equal. `sizes` maps language -> bytes; return language -> share. Shares sum to 1, and
# a language without text has none.


# %% tags=["exercise:shares", "points:2"]
def training_shares(sizes: dict, alpha: float) -> dict:
    # BEGIN SOLUTION
    powers = {language: size**alpha if size else 0 for language, size in sizes.items()}
    total = sum(powers.values())
    return {language: power / total for language, power in powers.items()}
    # END SOLUTION


# %% tags=["check:shares"]
check.shares(training_shares)

# %% [markdown]
# ### 4. Stretch: show a text while it is written (10 minutes, difficulty 3)
#
# A server sends tokens as they come, and a token can end inside a character. `pieces` are the bytes of each token.
# Return one text for each piece: what can be shown now and was not shown before. A character appears with the piece
# that brings its last byte; nothing is shown as �.


# %% tags=["exercise:stream", "points:3"]
def stream(pieces: list) -> list:
    # BEGIN SOLUTION
    shown, held = [], b""
    for piece in pieces:
        held += piece
        text = held.decode(errors="ignore")  # leaves an unfinished character at the end out
        shown.append(text)
        held = held[len(text.encode()) :]
    return shown
    # END SOLUTION


# %% tags=["check:stream"]
check.stream(stream)

# %% [markdown]
# ### 5. In words: a fair price? (6 minutes, difficulty 2)
#
# A public office wants one model for citizens who write English, Turkish and Amharic. The provider bills by the token.
# Somebody proposes to bill by the character instead: fair at last? Answer in three to five sentences, with numbers of
# this lesson.

# %% [markdown] tags=["answer:fair"]
# *Your answer:*

# %% [markdown]
# <details><summary>What a good answer has in it</summary>
#
# It says what differs: tokens for the same text, as measured, for the three languages. It says what a token really
# costs: a step of the model and a row of the cache, so a price by the character moves the cost to the provider and
# does not remove it; waiting time and context stay unequal.
#
# It notices that characters are no fair unit either:
# Chinese says the same with fewer of them. It names what would help: a tokenizer with balanced training, a larger
# vocabulary, and a measurement on the office's own letters in place of twenty lines of calendar.
#
# </details>

# %% [markdown]
# ## Recap
#
# You can now say:
#
# 1. A byte-level tokenizer knows every language, and has learned some.
# 2. BPE merges the most frequent pair, again and again, and encodes in the order in which it learned.
# 3. A round trip proves nothing about the cut. Equal ids do.
# 4. What you pay is bytes (UTF-8) divided by bytes per token (training).
# 5. Balance helps those who paid most, and the first step on the way costs the others little.
#
# | idea | formula | cost |
# |---|---|---|
# | UTF-8 | 1, 2, 3 or 4 bytes by code point | the most tokens that a text can need |
# | learn | most frequent pair, V - 256 times | all words for each merge, or only those that change |
# | encode | lowest rank among the word's pairs | (letters of the word) squared at worst |
# | price | tokens / tokens of English | money, time, cache and context alike |
# | balance | share in proportion to size^alpha | places of a fixed vocabulary change hands |

# %% [markdown]
# ## In the real models
#
# - **Qwen3.5** has room for 248,320 tokens, Qwen3 for 151,936. With the vocabulary came the pattern that keeps marks in
#   words. Surprise: in the small Qwen3.5-0.8B the table of 248,320 rows x 1,024 is 254 of its 758 million parameters.
# - **GLM-5** has room for 154,880, **Kimi K2.5** for 163,840, **DeepSeek-V3** for 129,280.
# - Splitting digits one by one (`\p{N}` without a +) is a choice as well: all numbers cost the same
#   a digit, in every script that Unicode calls a number.
#
# Sizes: `vocab_size` of the models' own `config.json`, through `helpers/facts/configs` (source and date in each file).
# The pattern: `PRETOKENIZE_REGEX` in transformers 5.23, read on 25 November 2026.

# %% [markdown]
# ## Roads not taken
#
# - **Unigram** (SentencePiece) starts with many pieces and drops the least useful: probabilities in place of ranks.
# - **No tokenizer at all**: models over bytes or patches of bytes. Every language then pays UTF-8, and no more.
# - **Other bytes**: an encoding that gives short codes to more scripts would lower the floor for all that follows.
# - **Twenty lines are a small text**, and names of months are borrowed from Latin in many languages. Running text moves
#   the numbers; where you decide something, measure your own.
#
# To run these cells on a real tokenizer, set `checkpoint = "Qwen/Qwen3.5-0.8B"` or `"zai-org/GLM-5"`, or a folder that
# holds a `tokenizer.json`.
#
# **Next: [[attention]].** What one more token costs, and what can be kept.
