"""Rules for characters with several readings, by the text before and after them, where no phrase of pypinyin decides.

The rules cover frequent cases. The net that upstream uses from v2 on (g2pW) covers more; its weights must be
downloaded. Characters in a phrase of pypinyin keep its readings, except for a few that are wrong in names.

A rule is kept only if human labels (the CPP sentences, CSMSC) agree with it and not with the dictionary, or have no
case of it; the README beside this file has the figures.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

_NUMERAL = "一二三四五六七八九十百千两几半"
_GOT = "了到过第奖病分冠胜罪逞势宠救名以知出益力意失利其此之而"  # what one gets, or what 得 begins a word with
_PEOPLE = "我你您他她它咱们谁俺家人妈爸"


class _Rule(NamedTuple):
    reading: str
    before: str = ""  # a pattern that the text before the character ends with
    after: str = ""  # a pattern that the text after it begins with


# The rules of each character; the first that matches counts. If none does, the dictionary's reading is used.
_RULES: dict[str, tuple[_Rule, ...]] = {
    "长": (
        _Rule("chang2", "", "着呢"),
        _Rule("chang2", rf"(?:[很太多好更最较挺真够极总全]么?|[{_NUMERAL}][米尺丈寸里公分厘]+)$"),
        _Rule("zhang3", "", "得|的[像很真挺]|[大高胖成满出开牙肉毛草虫个斑痘歪瘦]|着|公主|在[^于]|了[一两三几新块]"),
        _Rule("zhang3", "[可能会]$", "[至到]"),
        _Rule("zhang3", "", "相|史|老|记性|[这那]么|什么|啥|长了"),
        _Rule(
            "zhang3",
            "(?:[部局班市县省院会团队组站所处科厂店船机社村镇乡区州酋族馆庭连排营师军校家书育灵记司旅舰署厅]|越"
            "|委员|[理董监执干]事)$",
        ),
        _Rule("zhang3", "之$", "$"),
        _Rule("chang2"),
    ),
    "得": (
        _Rule("de2", rf"(?:^|[{_PEOPLE}曾没未会能将想要已又都刚终])$", f"[{_GOT}]|[金银铜]|[{_NUMERAL}]+[分票]"),
        _Rule(
            "dei3",
            rf"(?:[{_PEOPLE}]|还|总|就|都|也|只|又|必|先|[今明后]天|现在|恐怕|至少|以后|[早晚]上|都市?|时候)$",
            rf"[^很太多非更不可像好快慢见嘞{_GOT}]",
        ),
        _Rule("dei3", "可$", rf"[^很太多非更不可像好快慢见{_NUMERAL}{_GOT}]"),
        _Rule("dei3", "^$", "[先去来走找让把给被叫跟等练学做买问看想赶起回再在]"),
    ),
    "还": (
        _Rule("huan2", "", rf"[{_PEOPLE}]?(?:们)?的?(?:钱|债|款|账|贷|书|车|伞|礼|人情|本金|利息|手机|东西)"),
        _Rule("huan2", "", "[完掉给]|清(?![楚晰醒])|不(?:[起上]|清(?![楚晰醒]))|得[起上清]|了|过(?![得于分早高多])"),
        _Rule("huan2", "[借没要该来]$", "$|的$"),
    ),
    "着": (
        _Rule("zhao2", "[^有]不$|[^记觉显值舍免懂晓认]得$", "(?!急|想|边|眼|手|力|重|陆|装|落)"),
        _Rule("zhao2", "睡$", "觉|了|$"),
        _Rule("zhao2", "[睡烧点找猜打逮抓碰冻累吓烫伤火灯饿晒摔呛]$", "了"),
    ),
    "为": (
        _Rule("wei2", "(?:[变改视称评选作转译设认列归封贬降升分化划写读简合统任誉尊奉名]|(?<!决)定)$"),
        _Rule("wei2", "[约仅高宽厚重最极更尤颇较甚广价]$"),
        _Rule("wei2", "", "[二三四五六七八九十百千万零两]|一[百千万个种]?[%的]"),
        _Rule("wei2", "[以被把将][^，。！？]{1,8}$", "[^你您我他她它咱了避免求使防]"),
    ),
    "种": (
        _Rule(
            "zhong4", rf"(?:^|[^{_NUMERAL}这那各多某每何哪此品物人变火绝])$", "[了着过下树花菜地田瓜豆草粮麦稻满棉茶]"
        ),
    ),
    "只": (_Rule("zhi1", rf"[{_NUMERAL}这那每]$", "(?!有|能|是|要|会|剩|好|不)"),),
    "倒": (
        _Rule("dao3", "[摔跌病推击打扑刮吹晕昏滑绊拉压撞卧翻放难]$"),
        _Rule("dao3", "[^把水茶酒]$", "[下塌闭地台霉班]"),
        _Rule("dao3", "[树墙楼房人塔杆]$", "了|在"),
        _Rule("dao3", "[^水茶酒汤油]$", "在(?:地|路|床|沙|血|怀|雪|门)"),
    ),
    "行": (
        _Rule("hang2", rf"[{_NUMERAL}]$", "字|诗|眼?泪|代码|文字|数据|[大小]字"),
        _Rule("hang2", f"第[{_NUMERAL}]+$|[这那哪]一$", "(?![人为政动业程])"),
        _Rule("hang2", "[这那哪本各]$", "$|的|[也都]|当"),
    ),
    "重": (_Rule("chong2", "", "[做写来装试启读学走听拍修印换涂选排申查算录置设塑建组现复逢温申译]"),),
    "教": (
        _Rule(
            "jiao1",
            "(?:^|[^宗佛道督主兰回新旧正国异邪儒家斋徒])$",
            rf"[{_PEOPLE}书给得了过不]|会[了{_PEOPLE}]|孩子|小[孩朋学]|大家|学生|数学|语文|英语|[唱做画写弹跳说]",
        ),
    ),
    "结": (_Rule("jie1", "", "了?(?:[很许]?多)?(?:果子|满|籽|出[来了]?果)"),),
    "数": (_Rule("shu3", "", "一?数|[了着到完过]|不[清完过]|钱"), _Rule("shu3", "(?<![代整函分])数一?$")),
    "量": (_Rule("liang2", "", "一?量|了|过|体温|血压|身高|尺寸|一下"), _Rule("liang2", "量一?$")),
    "铺": (_Rule("pu1", "(?:^|[^里店])$", "[床路了着满设好开平上在]"),),
    "系": (_Rule("ji4", "", "[好上紧着了]|鞋带|领带|安全带|扣子|围巾|红领巾"),),
    "盛": (_Rule("cheng2", "", "[饭汤满了着]|一碗|[上点]"),),
    "吐": (_Rule("tu4", "[呕想要又都]$"), _Rule("tu4", "", "血|了(?:$|[一满])")),
    "转": (
        _Rule("zhuan4", "", rf"了?[{_NUMERAL}][圈周]|圈|个不停|来转去|悠|动着"),
        _Rule("zhuan4", "转来$|[绕围][^，。]{0,5}[^，。旋公自翻运扭]$"),
    ),
    "中": (
        _Rule("zhong4", "(?<![扭殴攻撞炮袭游打射衍发放反注投])[打射击]$|[投选看]$", "了"),
        _Rule("zhong4", "猜$", "[了的]|$"),
        _Rule("zhong4", "[他她我你们又刚]$", "了"),
        _Rule("zhong4", "", "了?[一二三]?[等个大]?(?:奖|毒|彩|计|弹|暑|招|邪|枪)"),
    ),
    "扎": (_Rule("za1", "", "[头辫]|马尾"),),
    "空": (_Rule("kong4", "", "[出下]一?[个间]?"), _Rule("kong4", "[没有抽得]$", "$|[的了吗就再来去]")),
    "背": (_Rule("bei1", "", "[着起]|了?[一]?[个]?(?:书包|包|孩子|行李|背包|枪|锅)"),),
    "降": (_Rule("xiang2", "[投受诈劝招]$"),),
    "曲": (_Rule("qu3", "[首支歌这名舞插金新老作唱]$"),),
    "卷": (_Rule("juan4", rf"[第上中下{_NUMERAL}]$|[试考答案]$"), _Rule("juan4", "", rf"[{_NUMERAL}]")),
    "率": (_Rule("shuai4", "", "[军领部队兵众先团师]"),),
    "差": (_Rule("cha1", "[温落高时误偏反逆色视级价压位之]$"), _Rule("chai1", "出$")),
    "散": (_Rule("san4", "[解分疏驱失离拆飘]$"), _Rule("san4", "", "[步开会场了伙]")),
    "难": (_Rule("nan4", "[苦灾遇落避逃患危空海]$"),),
    "应": (_Rule("ying4", "[答回反适响供相对效呼]$"),),
    "干": (
        _Rule("gan1", "[晒擦吹烘晾饼口喝]$"),
        _Rule("gan1", "[服裤鞋发被衫袜墙漆汗]$", "[了得透]"),
        _Rule("gan4", "", "[什啥嘛活事得劲]|[了过]?[一]?[件番]"),
    ),
    "载": (_Rule("zai3", rf"[{_NUMERAL}]$"),),
    "地": (
        _Rule("di4", "^$", "."),
        _Rule("di4", "[^自实存]在$|[^平同相]等$|(?:事发|产卵|养殖|滑坡)$"),
        _Rule("di4", "[^然对似样常确断停的]$", "$"),
        _Rule("di4", "", "[宫王]|界[内外]|陷(?![入于])|气[^愤恼]|藏[王菩殿]"),
    ),
    "燕": (_Rule("yan1", "[前后北南西]$"), _Rule("yan1", "", "[国京山赵]")),
}  # fmt: skip

# Where even the dictionary's phrases are wrong in names.
_EVERYWHERE: dict[str, tuple[_Rule, ...]] = {
    "地": (_Rule("de5", r"(.)\1$", "(?!沟|图|铁|球|下室)"),),  # 轻轻地
    "着": (_RULES["着"][0],),
    "行": _RULES["行"][:2],
    "结": (_Rule("jie1", "开花$", "果"),),
    "差": (_RULES["差"][0],),
    "什": (_Rule("shi2", "", "[^么]"), _Rule("shi2", ".$", "$")),
    "勒": (_Rule("lei1", "", "[紧住死脖]"), _Rule("le4")),
    "佛": (_Rule("fu2", "仿$"), _Rule("fo2")),
    "蒙": (_Rule("meng3", "", "族"), _Rule("meng3", "内$", "(?!古)")),  # 蒙古 is said meng2 gu3, as upstream has it
    "塞": (_Rule("sai4", "", "[尔浦拜内舌琉班维万纳]"), _Rule("sai4", "[阿何]$"), _Rule("sai4", "[要边出关塞]$")),
    "泊": (_Rule("bo2", "尼$|停$|漂$|淡$"),),
    "鲜": (_Rule("xian3", "朝$"),),
}


def reading_of(run: str, place: int, *, in_phrase: bool) -> str | None:
    """Return the reading of a character in a run of Chinese characters; None to use the dictionary's.

    `in_phrase`: the character is in a phrase of the dictionary.
    """
    character = run[place]
    rules = (
        _EVERYWHERE.get(character, ()) if in_phrase else (*_EVERYWHERE.get(character, ()), *_RULES.get(character, ()))
    )
    for rule in rules:
        before, after = _compiled(rule)
        if before.search(run[:place]) and after.match(run, place + 1):
            return rule.reading
    return None


@cache
def _compiled(rule: _Rule) -> tuple[re.Pattern[str], re.Pattern[str]]:
    return re.compile(rule.before), re.compile(rule.after)
