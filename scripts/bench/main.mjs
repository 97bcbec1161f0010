#!/usr/bin/env node
// npm run bench [-- read|write|chain|convert [options]]: without a word, all, with what each takes by default.
import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const [first, ...rest] = process.argv.slice(2);
const PARTS = ['read', 'write', 'chain', 'convert'];
const named = PARTS.includes(first);
for (const part of named ? [first] : PARTS) {
  const words = named ? rest : process.argv.slice(2);
  const { status } = spawnSync(process.execPath, [join(here, `${part}.mjs`), ...words], { stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
}
