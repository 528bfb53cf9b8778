#!/usr/bin/env python3
"""Does a small classifier tell hard prompts better than their length does?

Trains a logistic regression on `routing/dcrouter_train.json` (never on GSM8K),
and reports, five-fold over those prompts, the price of the answers at equal
quality, and on `routing/gsm8k_responses.csv` the APGR of each score.

    benches/complexity/measure.py DATA

DATA is the folder with `routing/`. Nothing but Python's standard library.
"""

import csv
import json
import math
import random
import re
import sys

FOLDS, EPOCHS = 5, 12
CHEAP = "gemma-2-9b-it"


def features(text):
    words = re.findall(r"[A-Za-z']+", text)
    numbers = re.findall(r"\d+", text)
    length = max(len(text), 1)
    lower = text.lower()
    return [
        1.0,
        math.log(length) / 10,
        math.log(1 + len(words)) / 8,
        math.log(1 + len(numbers)) / 4,
        sum(map(len, words)) / max(len(words), 1) / 6,
        text.count("\n") / (1 + len(words)) * 5,
        min(text.count("?"), 3) / 3,
        sum(c in "=+*/^<>{}\\$" for c in text) / length * 20,
        float("code" in lower or "def " in text or "function" in lower),
        float("option" in lower or bool(re.search(r"\n[A-D][).:]", text))),
        float(bool(re.search(r"\b(if|each|every|how many|per)\b", lower))),
        float(bool(re.search(r"\b(who|when|where|which)\b", lower))),
    ]


def train(rows, seed=1):
    """Weights for the chance that the cheap model fails where a dear one does not."""
    rng, weights = random.Random(seed), [0.0] * len(rows[0][0])
    for epoch in range(EPOCHS):
        rng.shuffle(rows)
        rate = 0.2 / (1 + epoch)
        for x, y in rows:
            z = max(-30.0, min(30.0, sum(w * v for w, v in zip(weights, x))))
            away = y - 1 / (1 + math.exp(-z))
            weights = [w + rate * away * v - rate * 1e-4 * w for w, v in zip(weights, x)]
    return weights


def apgr(rows):
    """Of (score, weak right, strong right): the mean share of the gap between
    the models that is won back, over all shares of prompts sent to the strong
    one, the highest scores first; ties count as their mean order."""
    count = len(rows)
    weak = sum(r[1] for r in rows) / count
    strong = sum(r[2] for r in rows) / count
    total = 0.0
    for seed in range(5):
        rng = random.Random(seed)
        order = sorted(rows, key=lambda r: (-r[0], rng.random()))
        won, area = 0.0, 0.0
        for row in order:
            before = won
            won += row[2] - row[1]
            area += 0.5 * (before + won)
        total += area / count / count / (strong - weak)
    return total / 5


def price_at(rows, quality, low, high):
    """Price a prompt token when just so many go to the dear model, by score,
    that the mean quality is reached."""
    order = sorted(rows, key=lambda r: -r[0])
    sums = sum(r[1] for r in order)
    spent = sum(r[3] for r in order) * low
    for row in order:
        if sums / len(order) >= quality:
            break
        sums += row[2] - row[1]
        spent += row[3] * (high - low)
    return spent / len(order)


def main(data):
    rows = json.load(open(f"{data}/routing/dcrouter_train.json"))
    prices = json.load(open(f"{data}/routing/default_llm.json"))
    models = sorted(rows[0]["scores"])
    mean = {m: sum(r["scores"][m] for r in rows) / len(rows) for m in models}
    price = {m: prices.get(m, {}).get("input_price", 0.9) for m in models}
    for m in models:
        print(f"{m:34} quality {mean[m]:.3f}  ${price[m]:.2f} a million tokens")
    dear = max(models, key=lambda m: mean[m])
    print(f"cheap {CHEAP}, dear {dear}")
    made = []
    for row in rows:
        weak, strong = row["scores"][CHEAP], row["scores"][dear]
        made.append((features(row["question"]), weak, strong, len(row["question"]) / 4))
    random.Random(7).shuffle(made)
    scored = {"classifier": [], "prompt length": [], "random": []}
    rng = random.Random(3)
    for fold in range(FOLDS):
        held = made[fold::FOLDS]
        known = [r for i, r in enumerate(made) if i % FOLDS != fold]
        weights = train([(x, 1.0 if strong > weak else 0.0) for x, weak, strong, _ in known])
        for x, weak, strong, tokens in held:
            score = sum(w * v for w, v in zip(weights, x))
            scored["classifier"].append((score, weak, strong, tokens))
            scored["prompt length"].append((x[1], weak, strong, tokens))
            scored["random"].append((rng.random(), weak, strong, tokens))
    for share in (0.5, 0.8):
        quality = mean[CHEAP] + share * (mean[dear] - mean[CHEAP])
        for name, rows_ in scored.items():
            usd = price_at(rows_, quality, price[CHEAP], price[dear])
            print(f"quality {quality:.3f} ({share:.0%} of the gap): {name:14} ${usd:.1f} a million prompts' prompt")
    for name, rows_ in scored.items():
        print(f"five-fold APGR on the training prompts: {name:14} {apgr(rows_):.3f}")
    weights = train([(x, 1.0 if strong > weak else 0.0) for x, weak, strong, _ in made])
    held = {"classifier": [], "prompt length": [], "random": []}
    with open(f"{data}/routing/gsm8k_responses.csv", newline="") as file:
        table = csv.reader(file)
        next(table)
        for prompt, weak, strong, *_ in table:
            x, weak, strong = features(prompt), float(weak == "True"), float(strong == "True")
            held["classifier"].append((sum(w * v for w, v in zip(weights, x)), weak, strong))
            held["prompt length"].append((len(prompt), weak, strong))
            held["random"].append((rng.random(), weak, strong))
    for name, rows_ in held.items():
        print(f"GSM8K APGR (never trained on): {name:14} {apgr(rows_):.3f}")
    print("weights", [round(w, 4) for w in weights])


if __name__ == "__main__":
    csv.field_size_limit(1 << 24)
    main(sys.argv[1])
