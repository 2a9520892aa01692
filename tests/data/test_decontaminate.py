"""`Decontaminator` finds equal texts and long common runs in any script, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.data.prepare.decontaminate import RUN_WORDS, Decontaminator, normalised_tokens, run_hashes

WORDY = " ".join(f"word{number}" for number in range(40))
CHINESE = "黑豹队的防守只丢了三百零八分在联赛中排名第六同时也以二十四次拦截领先国家橄榄球联盟"
THAI = "กรุงเทพมหานครเป็นเมืองหลวงและนครที่มีประชากรมากที่สุดของประเทศไทย"
HINDI = "भारत की राजधानी नई दिल्ली है और यह देश के उत्तर में यमुना नदी के किनारे पर बसी हुई है"
TEXTS = [WORDY, CHINESE, THAI, HINDI, "Which currency is used in Kenya?"]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_that_differ_in_punctuation_and_case_overlap(text: str) -> None:
    overlap = Decontaminator(TEXTS)
    assert overlap.overlap(text) == "equals a text of the evaluation data"
    assert overlap.overlap(f"  «{text.upper()}» !") == "equals a text of the evaluation data"


@pytest.mark.parametrize(
    ("whole", "run", "short"),
    [
        (WORDY, " ".join(WORDY.split()[5 : 5 + RUN_WORDS]), " ".join(WORDY.split()[5 : 4 + RUN_WORDS])),
        (CHINESE, CHINESE[4:24], CHINESE[4:23]),
        (HINDI, " ".join(HINDI.split()[2 : 2 + RUN_WORDS]), " ".join(HINDI.split()[2 : 1 + RUN_WORDS])),
    ],
)
def test_runs_overlap_from_the_documented_length(whole: str, run: str, short: str) -> None:
    overlap = Decontaminator([whole])
    assert "long run" in overlap.overlap(f"before, {run}; after")
    assert overlap.overlap(f"前 {short}。后" if whole is CHINESE else f"before, {short}; after") == ""


def test_thai_runs_are_characters_with_their_vowel_signs() -> None:
    tokens = normalised_tokens(THAI)
    assert "".join(tokens) == THAI
    assert len(run_hashes(tokens)) == len(tokens) - 45 + 1
    overlap = Decontaminator([THAI])
    assert "long run" in overlap.overlap("คำถาม" + "".join(tokens[3:48]) + "จบ")
    assert overlap.overlap("คำถาม" + "".join(tokens[3:47]) + "จบ") == ""


def test_short_texts_that_differ_do_not_overlap() -> None:
    overlap = Decontaminator(["Which currency is used in Kenya?"])
    assert overlap.overlap("Which currency is used in Uganda?") == ""
    assert overlap.overlap("In Kenya, which currency is used?") == ""
    assert overlap.overlap("...") == ""
    assert Decontaminator([]).overlap(WORDY) == ""
    assert Decontaminator(["!"]).overlap("?") == ""


@given(st.lists(st.text(alphabet="abc ", min_size=1, max_size=60), max_size=5), st.text(alphabet="abc ", max_size=200))
def test_hashes_agree_with_a_comparison_of_words(texts: list[str], text: str) -> None:
    def runs(of: str) -> set[tuple[str, ...]]:
        words = of.split()
        return {tuple(words[at : at + RUN_WORDS]) for at in range(len(words) - RUN_WORDS + 1)}

    equal = bool(text.split()) and any(text.split() == other.split() for other in texts)
    shared = any(runs(text) & runs(other) for other in texts)
    assert bool(Decontaminator(texts).overlap(text)) == (equal or shared)
