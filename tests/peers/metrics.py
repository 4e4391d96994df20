"""Reads the text exposition format from stdin with the official client's parser, and
prints it as JSON: {"types": {family: type}, "samples": [[name, {label: value}, value]]}."""

import json
import math
import sys

from prometheus_client.parser import text_string_to_metric_families

types, samples = {}, []
for family in text_string_to_metric_families(sys.stdin.read()):
    if family.name in types:
        raise SystemExit("family %s is there twice" % family.name)
    if not family.documentation:
        raise SystemExit("family %s has no help" % family.name)
    types[family.name] = family.type
    for sample in family.samples:
        value = sample.value if math.isfinite(sample.value) else repr(sample.value)
        samples.append([sample.name, sample.labels, value])
json.dump({"types": types, "samples": samples}, sys.stdout)
