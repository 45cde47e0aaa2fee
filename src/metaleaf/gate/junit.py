"""The gate's outcome as JUnit XML: a test case for every measure of every cell."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from metaleaf.gate.compare import Comparison


def render(compared: Sequence[Comparison], skipped: Mapping[str, str]) -> bytes:
    """The XML file. What moved is a failure, what could not be measured an error, a suite without data is skipped."""
    root = Element("testsuites", name="metaleaf gate")
    for suite, group in groupby(compared, lambda one: one.cell.partition("/")[0]):
        cases = list(group)
        element = SubElement(root, "testsuite", name=suite, tests=str(len(cases)))
        element.set("failures", str(sum(one.alarm for one in cases)))
        element.set("errors", str(sum(one.verdict == "not measured" for one in cases)))
        for one in cases:
            _add(element, one)
    for suite, reason in skipped.items():
        element = SubElement(root, "testsuite", name=suite, tests="1", skipped="1")
        case = SubElement(element, "testcase", classname=suite, name=suite)
        SubElement(case, "skipped", message=reason)
    indent(root)
    text: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _add(suite: Element, one: Comparison) -> None:
    case = SubElement(suite, "testcase", classname=one.cell.replace("/", "."), name=one.measure or "cell")
    if one.verdict != "ok":
        kind = "error" if one.verdict == "not measured" else "failure"
        SubElement(case, kind, type=one.verdict, message=one.sentence())
