"""Chinese characters with several readings: where a rule corrects the dictionary, and where it must not.

Each kind of sentence was judged on two public sets with readings by people: the CPP sentences that g2pM ships, and the
labels of CSMSC. The sentences themselves are our own.
"""

from __future__ import annotations

import pytest

from ttstrain.families.gpt_sovits.text.front_end import phonemize


def heard(text: str) -> str:
    return f" {' '.join(phonemize(text, 'zh', version='v2').phones)} "


@pytest.mark.parametrize(
    ("text", "sound"),
    [
        ("这个岛被称为鸟的家园。", "w ei2 n iao3"),
        ("全长为三百米的桥通车了。", "ch ang2 w ei2"),
        ("会议以中文为主要语言。", "w ei2 zh u3"),
        ("北朝鲜的首都是平壤。", "ch ao2 x ian3"),
        ("克什米尔的湖水很清。", "sh ir2 m i2"),
        ("洛克菲勒捐了一座楼。", "l e4 j van1"),
        ("他在哈佛读书。", "f o2 d u2"),
        ("塞尔维亚的夏天很热。", "s ai4 EE er3"),
        ("这部书一共有二十卷。", "j van4 ."),
        ("两只鹦鹉在树上叫。", "l iang3 zh ir1"),
        ("将军率兵守住了城门。", "sh uai4 b ing1"),
        ("大树被风刮倒了。", "d ao3 l e5"),
        ("她在院子里种了一棵柳树。", "zh ong4 l e5"),
        ("喜鹊围着树林转，不肯走。", "zh uan4 ,"),
        ("他猜中了谜底。", "c ai1 zh ong4"),
        ("你得听我的话。", "n i2 d ei3 t ing1"),
        ("我们可得把事情说清楚。", "d ei2 b a3"),
        ("得先去车站买票。", "d ei3 x ian1"),
        ("她把钱还了。", "h uan2 l e5"),
        ("小偷被摁倒在地。", "z ai4 d i4"),
        ("香蕉产于海南等地。", "d eng3 d i4"),
        ("她留着一头长头发。", "ch ang2 t ou2"),
        ("这头鲸体长超过十米。", "ch ang2 ch ao1"),
        ("他是船上的副舰长。", "zh ang3 ."),
        ("叔叔教我写毛笔字。", "j iao1 w o3"),
        ("用铁索系着一口大锅。", "j i4 zh e5"),
        ("和尚背着一面铜鼓。", "b ei1 zh e5"),
        ("北燕的都城在北方。", "y En1 d e5"),
    ],
)
def test_what_stands_around_a_character_decides(text: str, sound: str) -> None:
    assert f" {sound} " in heard(text)


@pytest.mark.parametrize(
    ("text", "sound"),
    [
        ("医院决定为老人免费看病。", "w ei4 l ao3"),
        ("我的裁缝将为您量好尺寸。", "w ei4 n in2"),
        ("他说的是什么？", "sh en2 m e5"),
        ("他仿佛听见了歌声。", "f ang3 f u2"),
        ("他用布塞住了瓶口。", "s ai1 zh u4"),
        ("他把地图卷起来了。", "j van2 q i3"),
        ("地球不停地旋转。", "x van2 zh uan3"),
        ("传说中的水神是女的。", "sh uo1 zh ong1"),
        ("撞击中车门开了。", "j i1 zh ong1"),
        ("得知消息以后他笑了。", "d e2 zh ir1"),
        ("我还不清楚他的地址。", "h ai2 b u4"),
        ("她很自然地笑了。", "r an2 d e5"),
        ("他轻轻地关上门。", "q ing1 d e5"),
        ("他的祖父是基督教会的成员。", "j iao4 h ui4"),
        ("部队在十里铺设伏。", "l i3 p u4"),
        ("第十八行政区在河边。", "x ing2 zh eng4"),
        ("内蒙古的冬天很长。", "m eng2 g u3"),
    ],
)
def test_a_rule_does_not_reach_too_far(text: str, sound: str) -> None:
    assert f" {sound} " in heard(text)


def test_a_place_after_a_guessed_word_keeps_its_tone() -> None:
    """jieba's model of new words makes one word of 绳上; upstream's cutting does not, and 上 keeps its tone."""
    assert " sh eng2 sh ang4 " in heard("绳上挂着三件衬衫。")
    assert " d ong4 l i3 " in heard("洞里住着一只狐狸。")
