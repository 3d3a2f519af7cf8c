"""The YAML of a study: what is asked, of which images, in which words, and who may take part."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from facecrafter import config as config_file
from facecrafter.config import Strict
from facecrafter.errors import ConfigError

Design = Literal["choose", "ranking", "pairs"]
Kind = Literal["control", "diversity"]
Key = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=40)]
Line = Annotated[str, Field(min_length=1, max_length=500)]
Paragraphs = Annotated[str, Field(min_length=1, max_length=20_000)]
Code = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200)]
LEAST_CODE = 8  # characters that an access code must have
MOST_HOURS = 10 * 365 * 24  # that a pause can last
BETWEEN = " | "  # the export's, between names of methods
# What words must have in them, or nobody can do what they ask for.
FILLED = {"instructed": "{number}", "instructed_first": "{number}", "completion": "{code}"}


class Question(Strict):
    """One evaluation of the study."""

    key: Key  # its name in files
    images: Kind  # of control: one image a method, of a request; of diversity: several images a method, of a person
    shows: tuple[Literal["source", "target"], ...] = ("source",)  # the photos beside the choice
    text: Line

    @model_validator(mode="after")
    def _can_be_shown(self) -> Question:
        if len(set(self.shows)) < len(self.shows):
            raise ValueError("`shows` names a photo twice")
        if self.images == "diversity" and "target" in self.shows:
            raise ValueError("images of diversity have no target photo; leave it out of `shows`")
        return self


# Diversity and controllability, each for pose and for expression with emotion, and identity. The paper gives these
# evaluations and not their words.
PAPER = (
    Question(
        key="diversity-pose",
        images="diversity",
        text="Which group of images shows the greatest variety of head poses?",
    ),
    Question(
        key="diversity-expression",
        images="diversity",
        text="Which group of images shows the greatest variety of facial expressions and emotions?",
    ),
    Question(
        key="control-pose",
        images="control",
        shows=("source", "target"),
        text="Which image follows the head pose of the target photo best?",
    ),
    Question(
        key="control-expression",
        images="control",
        shows=("source", "target"),
        text="Which image follows the facial expression and emotion of the target photo best?",
    ),
    Question(
        key="identity",
        images="control",
        text="Which image most looks like the person in the source photo?",
    ),
)


class Words(Strict):
    """Every word of the page beside questions and consent, for translations."""

    source: Line = "Source photo"
    target: Line = "Target photo"
    agree: Line = "I agree and take part"
    code: Line = "Access code"
    practice: Line = "Practice: this answer does not count."
    instructed: Line = "Attention check: please choose option {number}, whatever it shows."
    instructed_first: Line = "Attention check: please choose option {number} first, whatever it shows."
    option: Line = "Option {number}"
    choose_help: Line = "Click or tap one option, or press its number. Backspace takes the last answer back."
    tap_help: Line = "Tap one option."  # in place of `choose_help` on a device without a mouse
    ranking_help: Line = "Choose the options one after another, the best first."
    rank: Line = "Place {number}"
    save: Line = "Save this order"
    needs_link: Line = "This study is by invitation. Please open your personal link."
    progress: Line = "{done} of {total}"
    undo: Line = "Undo the last answer"
    saving: Line = "Saving …"
    saved: Line = "Saved."
    waiting: Line = "The connection is lost. Your answer is kept here and will be sent again."
    retrying: Line = "The study cannot be reached. Trying again …"
    problem: Line = "Something went wrong. Please reload the page; your answers are saved."
    done: Line = "Thank you. All your answers are saved."
    completion: Line = "Your completion code: {code}"
    later: Line = "You can close this page and go on later. Your personal link:"
    later_done: Line = "Should you want to withdraw later, your personal link is:"
    withdraw: Line = "Withdraw and delete my answers"
    withdraw_sure: Line = "Delete all your answers? This cannot be undone."
    withdraw_yes: Line = "Yes, delete them"
    withdraw_no: Line = "No, go back"
    withdrawn: Line = "Your answers are deleted. Thank you for your time."


class Translation(Strict):
    """The study in another language: all that a participant reads."""

    title: Line
    introduction: Paragraphs
    consent: Paragraphs
    questions: dict[str, Line]
    words: Words


INTRODUCTION = (
    "You will see images of faces that were generated by different methods, and are asked which one answers a "
    "question best. There is no right or wrong answer: go by your own impression. It takes about ten minutes."
)
CONSENT = (
    "Taking part is voluntary. You can stop at any time, and withdraw with one click, which deletes your answers.\n\n"
    "We store your choices and when you made them. We store no name, no address of your device and nothing that tells "
    "who you are.\n\nBy going on you confirm that you are at least 18 years old and agree to take part."
)


class StudyConfig(Strict):
    """A study. The defaults of its design are those of the paper."""

    title: Line = "Which image is best?"
    introduction: Paragraphs = INTRODUCTION
    consent: Paragraphs = CONSENT
    contact: str = ""  # whom participants can ask, shown with the consent
    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]+)*$")] = "en"  # of the texts above
    words: Words = Words()
    translations: dict[str, Translation] = Field(default_factory=dict)  # by language
    questions: tuple[Question, ...] = Field(PAPER, min_length=1)
    # choose: the best of all methods. ranking: all methods in order. pairs: the better of two (2AFC).
    design: Design = "choose"
    sets: int = Field(30, ge=1, le=10_000)  # sets of images a question
    sets_a_participant: int = Field(5, ge=1)  # of each question
    images_a_set: int = Field(6, ge=2, le=24)  # images a method in a set of diversity
    attention_checks: int = Field(2, ge=0, le=20)  # trials a participant that say what to choose
    practice: bool = True  # one trial before, which does not count
    access: Literal["open", "links", "code"] = "open"  # one link for all, a link a person, or a code for a panel
    access_code: Code = ""  # with access: code
    completion_code: str = Field("", max_length=100)  # shown at the end, for panels that ask for one
    # Without an answer, until a participant's sets go to others.
    return_after_hours: float = Field(24, gt=0, allow_inf_nan=False)
    seed: int = Field(0, ge=0)  # draws the sets, and deals them
    runs: tuple[Path, ...] = ()  # folders that `evaluate control` and `evaluate diversity` wrote
    methods: dict[str, Path] = Field(default_factory=dict)  # or folders of images, by the methods' names
    references: Path | None = None  # with `methods`: the folder of source and target photos

    @model_validator(mode="after")
    def _consistent(self) -> StudyConfig:
        keys = Counter(question.key for question in self.questions)
        for key, count in keys.items():
            if count > 1:
                raise ValueError(f"{count} questions have the key '{key}'")
        if self.sets_a_participant > self.sets:
            raise ValueError(
                f"a participant cannot see {self.sets_a_participant} of {self.sets} sets; lower `sets_a_participant`"
            )
        if (self.access == "code") != bool(self.access_code):
            raise ValueError("`access: code` and `access_code`, the word that the panel is given, belong together")
        if self.runs and (self.methods or self.references):
            raise ValueError("give `runs`, or `methods` with `references`, not both")
        for language, translation in self.translations.items():
            missing = [key for key in keys if key not in translation.questions]
            unknown = [key for key in translation.questions if key not in keys]
            if missing or unknown:
                what = f"lacks the question '{missing[0]}'" if missing else f"has a question '{unknown[0]}' of no key"
                raise ValueError(f"the translation '{language}' {what}")
        return self

    @property
    def kinds(self) -> list[Kind]:
        """The kinds of images that its questions are about."""
        return list(dict.fromkeys(question.images for question in self.questions))

    def question(self, key: str) -> Question:
        """The question of a key."""
        return next(one for one in self.questions if one.key == key)


def check_new(config: StudyConfig) -> None:
    """Refuse what a new study cannot have. One that was built before may, so that its answers can still be read.

    Raises:
        ConfigError: an access code that is easily guessed, a pause without an end, or words that lack what they need.
    """
    if config.access == "code" and len(config.access_code) < LEAST_CODE:
        raise ConfigError(
            f"an `access_code` of fewer than {LEAST_CODE} characters is easily guessed; give a longer one"
        )
    if config.return_after_hours > MOST_HOURS:
        raise ConfigError(
            f"`return_after_hours` is {config.return_after_hours:g}; set it to {MOST_HOURS}, ten years, or less"
        )
    all_words = {config.language: config.words, **{key: one.words for key, one in config.translations.items()}}
    for language, words in all_words.items():
        for name, part in FILLED.items():
            if part not in getattr(words, name):
                raise ConfigError(
                    f"the word `{name}` of the language '{language}' lacks {part}; write it where it belongs"
                )


def load(path: Path) -> StudyConfig:
    """Read the YAML of a study.

    Raises:
        ConfigError: no such file, not YAML, or a name or value that is not allowed; the message says which.
    """
    return config_file.check(path, config_file.read(path), StudyConfig)
