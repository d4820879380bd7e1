"""Boxes in answers: read strictly, measured right, matched one to one."""

from __future__ import annotations

import pytest

from tinygptv_fast.data.scoring import grounded, iou, read_boxes, same_boxes


def test_iou() -> None:
    assert iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert iou((0, 0, 10, 10), (10, 0, 20, 10)) == 0
    assert iou((10, 10, 0, 0), (0, 0, 10, 10)) == 0


def test_every_box_once_in_any_order_by_more_than_half() -> None:
    true = [(0.0, 0.0, 20.0, 20.0), (50.0, 50.0, 80.0, 80.0)]
    assert same_boxes([(51, 50, 80, 80), (0, 1, 20, 20)], true)
    assert not same_boxes([(0, 0, 20, 20), (0, 0, 20, 20)], true)
    assert not same_boxes(true[:1], true) and not same_boxes([*true, true[0]], true)
    assert not same_boxes([(17, 10, 37, 30)], [(10, 10, 30, 30)])  # 13/27


def test_read_boxes_is_strict() -> None:
    assert read_boxes("x {<1><2><3><4>} {<1><2><3>} {<-1><2><3><4>}") == [(1, 2, 3, 4)]


def test_phrases_keep_their_boxes() -> None:
    text = "<p>star</p>{<0><0><20><20>}<delim>{<50><50><80><80>}, <p>ring</p>{<1><2><3><4>}"
    assert grounded(text) == {"star": [(0, 0, 20, 20), (50, 50, 80, 80)], "ring": [(1, 2, 3, 4)]}
