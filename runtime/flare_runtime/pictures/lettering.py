"""Capital letters and digits of 5 x 7 dots, drawn into pictures."""

import numpy as np
import numpy.typing as npt

# Five columns of a sign, the lowest bit at the top.
_COLUMNS = {
    " ": "0000000000",
    "+": "08083E0808",
    "-": "0808080808",
    ".": "0060600000",
    "/": "2010080402",
    ":": "0036360000",
    "0": "3E5149453E",
    "1": "00427F4000",
    "2": "4261514946",
    "3": "2141454B31",
    "4": "1814127F10",
    "5": "2745454539",
    "6": "3C4A494930",
    "7": "0171090503",
    "8": "3649494936",
    "9": "064949291E",
    "A": "7E1111117E",
    "B": "7F49494936",
    "C": "3E41414122",
    "D": "7F4141221C",
    "E": "7F49494941",
    "F": "7F09090901",
    "G": "3E4149497A",
    "H": "7F0808087F",
    "I": "00417F4100",
    "J": "2040413F01",
    "K": "7F08142241",
    "L": "7F40404040",
    "M": "7F020C027F",
    "N": "7F0408107F",
    "O": "3E4141413E",
    "P": "7F09090906",
    "Q": "3E4151215E",
    "R": "7F09192946",
    "S": "4649494931",
    "T": "01017F0101",
    "U": "3F4040403F",
    "V": "1F2040201F",
    "W": "3F4038403F",
    "X": "6314081463",
    "Y": "0708700807",
    "Z": "6151494543",
}
_SCALE, _MARGIN = 2, 3
_LINE = 7 * _SCALE + 2 * _MARGIN


def text_height() -> int:
    """Return how many rows a line takes."""
    return _LINE


def text_width(text: str) -> int:
    """Return how many columns a line takes."""
    return 6 * _SCALE * len(text) + 2 * _MARGIN


def write(picture: npt.NDArray[np.uint8], text: str, row: int, column: int) -> None:
    """Write a line in white on a darkened ground, its upper left corner at a pixel of a picture (rows, columns, 3).

    What does not fit is cut off; signs other than capital letters, digits and + - . / : are left blank.
    """
    dots = np.zeros((7, 6 * len(text)), bool)
    for place, sign in enumerate(text):
        columns = np.frombuffer(bytes.fromhex(_COLUMNS.get(sign, _COLUMNS[" "])), np.uint8)
        dots[:, 6 * place : 6 * place + 5] = (columns >> np.arange(7)[:, None]) & 1
    drawn = np.pad(dots.repeat(_SCALE, axis=0).repeat(_SCALE, axis=1), _MARGIN)
    ground = picture[row : row + drawn.shape[0], column : column + drawn.shape[1]]
    ground //= 3
    ground[drawn[: ground.shape[0], : ground.shape[1]]] = 255
