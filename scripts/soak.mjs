#!/usr/bin/env node
// npm run soak: what takes too long for every run of the tests, with new seeds. The seed of a failure is printed;
// each variable can be set to repeat it.
import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const seed = `${Date.now() % 2 ** 31}`;
const settings = {
  CRASH_ROUNDS: '50',
  POWERCUT_RUNS: '20000',
  POWERCUT_SEED: seed,
  FAULT_SEED: seed,
  MODEL_SEED: seed,
  MODEL_STEPS: '1000',
};
const env = { ...settings, ...process.env };
console.log(
  Object.keys(settings)
    .map((name) => `${name}=${env[name]}`)
    .join(' '),
);
const suites = ['test/e2e/write-crash.test.ts', 'test/powercut', 'test/fault', 'test/model'];
const vitest = join(root, 'node_modules', '.bin', 'vitest');
const { status } = spawnSync(vitest, ['run', '--testTimeout=7200000', ...suites], {
  cwd: root,
  env,
  stdio: 'inherit',
});
process.exit(status ?? 1);
