/**
 * A strict reader of Prometheus' text exposition format 0.0.4, in place of `promtool check metrics`: throws for what that
 * refuses, and for what its linter complains about in counters and histograms.
 */

export interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

const NAME = /^[a-zA-Z_:][a-zA-Z0-9_:]*$/;
const SAMPLE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(?:,|$)/;

function labelsOf(text: string): Record<string, string> {
  const labels: Record<string, string> = {};
  for (let rest = text; rest !== ''; ) {
    const [whole, name, value] = LABEL.exec(rest) ?? [];
    if (whole === undefined || name! in labels) throw new Error(`bad labels: ${text}`);
    labels[name!] = value!.replaceAll(/\\(.)/g, (_, letter: string) => (letter === 'n' ? '\n' : letter));
    rest = rest.slice(whole.length);
  }
  return labels;
}

function numberOf(text: string): number {
  if (text === '+Inf') return Number.POSITIVE_INFINITY;
  if (!/^-?\d+(\.\d+)?(e[+-]?\d+)?$/.test(text)) throw new Error(`bad value: ${text}`);
  return Number(text);
}

/** All samples, in order. */
export function parseExposition(text: string): Sample[] {
  if (!text.endsWith('\n')) throw new Error('the last line has no end');
  const types = new Map<string, string>();
  const seen = new Set<string>();
  const samples: Sample[] = [];
  let family = '';
  let helped = '';
  for (const line of text.slice(0, -1).split('\n')) {
    const help = /^# HELP (\S+) (.+)$/.exec(line);
    const type = /^# TYPE (\S+) (counter|gauge|histogram)$/.exec(line);
    if (help !== null) {
      helped = help[1]!;
      if (types.has(helped) || !NAME.test(helped)) throw new Error(`family again: ${line}`);
      continue;
    }
    if (type !== null) {
      family = type[1]!;
      if (family !== helped) throw new Error(`TYPE without HELP: ${line}`);
      if ((type[2] === 'counter') !== family.endsWith('_total')) throw new Error(`name and type: ${line}`);
      types.set(family, type[2]!);
      continue;
    }
    const [, name, labels = '', value] = SAMPLE.exec(line) ?? [];
    if (name === undefined) throw new Error(`no sample: ${line}`);
    const suffix = name.slice(family.length);
    const suffixes = types.get(family) === 'histogram' ? ['_bucket', '_sum', '_count'] : [''];
    if (!name.startsWith(family) || !suffixes.includes(suffix)) throw new Error(`not of ${family}: ${line}`);
    const sample = { name, labels: labelsOf(labels), value: numberOf(value!) };
    const key = `${name} ${JSON.stringify(Object.entries(sample.labels).sort())}`;
    if (seen.has(key)) throw new Error(`twice: ${line}`);
    if (types.get(family) === 'counter' && !(sample.value >= 0)) throw new Error(`below 0: ${line}`);
    seen.add(key);
    samples.push(sample);
  }
  checkHistograms(samples);
  return samples;
}

/** Buckets ascend, end with +Inf, and agree with the count. */
function checkHistograms(samples: readonly Sample[]): void {
  const key = ({ le: _, ...labels }: Sample['labels'], name: string) => `${name} ${JSON.stringify(labels)}`;
  const open = new Map<string, { bound: number; count: number }>();
  for (const { name, labels, value } of samples) {
    if (name.endsWith('_bucket')) {
      const of = key(labels, name.slice(0, -'_bucket'.length));
      const bound = numberOf(labels['le'] ?? '');
      const last = open.get(of);
      if (last !== undefined && (bound <= last.bound || value < last.count))
        throw new Error(`order in ${of}`);
      open.set(of, { bound, count: value });
    } else if (name.endsWith('_count')) {
      const last = open.get(key(labels, name.slice(0, -'_count'.length)));
      if (last?.bound !== Number.POSITIVE_INFINITY || last.count !== value)
        throw new Error(`count of ${name}`);
    }
  }
}
