"""The tables as the paper prints them, kept apart from everything measured here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NOTE = (
    "These numbers are the paper's own and were not measured here. Its estimators, its images and its scale are "
    "others, and numbers of different estimators and scales cannot be compared: only methods within one table can."
)


@dataclass(frozen=True)
class PaperTable:
    """A printed table: what it is, its columns with the better direction, and a row a method as it is printed."""

    title: str
    about: str
    columns: tuple[tuple[str, Literal["lower", "higher"]], ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def headings(self) -> list[str]:
        """The columns with arrows towards the better."""
        return [f"{title} {'↓' if better == 'lower' else '↑'}" for title, better in self.columns]

    def best(self, column: int) -> str:
        """The best cell of a column, counted from 0 after the method's name."""
        cells = [row[column + 1] for row in self.rows]
        choose = min if self.columns[column][1] == "lower" else max
        return choose(cells, key=lambda cell: float(cell.rstrip("M")))


CONTROL = PaperTable(
    "Table 1 of the paper",
    "2,000 pairs of an identity and a target from CelebA; expression and pose are FLAME parameters by EMOCA v2, "
    "emotion is by EmoNet, identity by FaceNet, and FID is against 2,000 images of FFHQ. By their values, Exp-RMSE "
    "and Dist-RMSE are means of l2 norms (docs/evaluation.md).",
    (
        ("Exp-RMSE", "lower"),
        ("Pose-RMSE", "lower"),
        ("V-RMSE", "lower"),
        ("A-RMSE", "lower"),
        ("Dist-RMSE", "lower"),
        ("Class-ACC (%)", "higher"),
        ("ID-Sim", "higher"),
        ("FID", "lower"),
        ("#Extra-Params", "lower"),
    ),
    (
        ("Arc2Face+ControlNet", "8.12", "0.130", "0.360", "0.247", "0.86", "35.1", "0.76", "44.64", "361M"),
        ("CapHuman", "7.82", "0.166", "0.428", "0.224", "0.87", "34.6", "0.71", "88.80", "361M"),
        ("FaceCrafter-Pre-trained(LMK)", "7.11", "0.124", "0.267", "0.221", "0.71", "46.5", "0.75", "46.85", "11.7M"),
        ("FaceCrafter-Pre-trained(LMK+EMO)", "7.12", "0.128", "0.218", "0.205", "0.59", "56.5", "0.72", "53.25", "18M"),
        ("FaceCrafter(LMK)", "6.78", "0.119", "0.250", "0.203", "0.63", "52.4", "0.71", "38.80", "11.7M"),
        ("FaceCrafter(LMK+EMO)", "6.81", "0.126", "0.217", "0.184", "0.52", "61.2", "0.69", "41.54", "18M"),
    ),
)

DIVERSITY = PaperTable(
    "Table 2 of the paper",
    "Identity alone, on Synth-500 and AgeDB-500; Exp. and Pose are the l2 norms of the standard deviations of FLAME "
    "parameters over a person's images.",
    (
        ("LPIPS, Synth-500", "higher"),
        ("LPIPS, AgeDB-500", "higher"),
        ("Exp. (l2), Synth-500", "higher"),
        ("Exp. (l2), AgeDB-500", "higher"),
        ("Pose (l2), Synth-500", "higher"),
        ("Pose (l2), AgeDB-500", "higher"),
        ("FID, Synth-500", "lower"),
        ("FID, AgeDB-500", "lower"),
    ),
    (
        ("FastComposer", "0.389", "0.487", "3.597", "4.678", "0.163", "0.225", "13.517", "31.736"),
        ("PhotoMaker", "0.410", "0.424", "3.920", "4.283", "0.167", "0.165", "13.295", "8.410"),
        ("InstantID", "0.386", "0.437", "3.733", "4.569", "0.059", "0.082", "22.859", "18.598"),
        ("IPA-FaceID (SDXL)", "0.402", "0.462", "4.648", "5.812", "0.181", "0.197", "7.104", "24.105"),
        ("IPA-FaceID-Plus", "0.320", "0.384", "2.706", "3.518", "0.150", "0.194", "14.880", "11.817"),
        ("IPA-FaceID-Plusv2", "0.356", "0.429", "3.147", "4.092", "0.185", "0.236", "9.752", "10.798"),
        ("Arc2Face", "0.506", "0.508", "6.375", "5.966", "0.317", "0.273", "5.673", "6.628"),
        ("FaceCrafter", "0.552", "0.589", "6.971", "6.930", "0.429", "0.424", "2.112", "6.501"),
    ),
)

TABLES = {"control": CONTROL, "diversity": DIVERSITY}
