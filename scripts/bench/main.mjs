#!/usr/bin/env node
// npm run bench [-- read|write [options]]: without a word, both, with what each takes by default.
import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const [first, ...rest] = process.argv.slice(2);
const named = first === 'read' || first === 'write';
for (const part of named ? [first] : ['read', 'write']) {
  const words = named ? rest : process.argv.slice(2);
  const { status } = spawnSync(process.execPath, [join(here, `${part}.mjs`), ...words], { stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
}
