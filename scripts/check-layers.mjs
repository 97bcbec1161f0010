#!/usr/bin/env node
// Fails when an import runs against the layers: each folder of src may import itself and those listed before
// it, in the order below. Formats never import one another, and type-only imports count like any other.
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const LAYERS = [
  'start',
  'base',
  'layout',
  'shared',
  'source',
  'image',
  'formats',
  'chain',
  'cache',
  'disk',
  'reshape',
  'partitions',
  'fuse',
  'evidence',
  'convert',
  'transport',
  'control',
  'daemon',
  'cli',
];
/** Extra rules: this folder may not import that one, although the order would allow it. */
const FORBIDDEN = [['formats', 'cache']];
/** Imported by none: what loads the bundles must not become a part of them. */
const APART = 'start';
/** Packages and Node modules that only some layers may touch. */
const GUARDED = [
  {
    specifier: /^(node:)?fs(\/|$)/,
    layers: ['start', 'source', 'chain', 'evidence', 'convert', 'transport', 'control', 'daemon', 'cli'],
  },
  { specifier: /^(node:)?net$/, layers: ['control', 'daemon'] },
  { specifier: /^koffi$/, layers: ['source'] },
  { specifier: /^yargs(-parser)?$/, layers: ['cli'] },
  { specifier: /^smol-toml$/, layers: ['cli'] },
  { specifier: /^pino$/, layers: ['daemon'] },
  { specifier: /^fuse-native$/, layers: ['transport'] },
  { specifier: /^node:worker_threads$/, layers: ['evidence', 'convert', 'transport', 'daemon'] },
  { specifier: /^node:child_process$/, layers: ['transport', 'daemon'] },
];

const root = resolve(process.argv[2] ?? join(dirname(fileURLToPath(import.meta.url)), '..', 'src'));
const IMPORT =
  /(?:\bfrom\s*|\bimport\s*\(?\s*|\b(?:r|createR)equire(?:\(import\.meta\.url\))?\(\s*)'([^']+)'/g;

function* files(folder) {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) yield* files(path);
    else if (entry.name.endsWith('.ts')) yield path;
  }
}

const problems = [];
for (const file of files(root)) {
  const name = relative(root, file);
  const parts = name.split('/');
  const rank = LAYERS.indexOf(parts[0]);
  if (rank < 0) problems.push(`${name}: ${parts[0]} is no layer`);
  for (const [, specifier] of readFileSync(file, 'utf8').matchAll(IMPORT)) {
    if (!specifier.startsWith('.')) {
      const guard = GUARDED.find((rule) => rule.specifier.test(specifier));
      if (guard !== undefined && !guard.layers.includes(parts[0])) {
        problems.push(`${name}: ${parts[0]} may not import ${specifier}`);
      }
      continue;
    }
    const target = relative(root, resolve(dirname(file), specifier)).split('/');
    const targetRank = LAYERS.indexOf(target[0]);
    if (target.join('/') === '../package.json') continue;
    if (target[0] === '..') {
      problems.push(`${name}: imports ${specifier}, outside of src`);
    } else if (targetRank > rank || (target[0] === APART && parts[0] !== APART)) {
      problems.push(`${name}: ${parts[0]} may not import ${target[0]} (${specifier})`);
    } else if (FORBIDDEN.some(([from, to]) => parts[0] === from && target[0] === to)) {
      problems.push(`${name}: ${parts[0]} may not import ${target[0]} (${specifier})`);
    } else if (
      parts[0] === 'formats' &&
      parts.length > 2 &&
      target[0] === 'formats' &&
      target[1] !== parts[1]
    ) {
      problems.push(`${name}: one format may not import another (${specifier})`);
    }
  }
}
for (const problem of problems) console.error(problem);
console.log(
  problems.length === 0 ? 'layers: every import runs downwards' : `layers: ${problems.length} wrong imports`,
);
process.exitCode = problems.length === 0 ? 0 : 1;
