#!/usr/bin/env node
// The closing line of scripts/test: counts a vitest JSON report and the checks that failed before it.
import { readFileSync } from 'node:fs';

const [, , path, checksFailed] = process.argv;
let report;
try {
  report = JSON.parse(readFileSync(path, 'utf8'));
} catch {
  console.log('the test runner left no report');
  report = { numPassedTests: 0, numFailedTests: 1, numPendingTests: 0, testResults: [] };
}
// A file that fails to load or in a hook has no failed test of its own.
const broken = report.testResults.filter(
  (file) => file.status === 'failed' && !file.assertionResults.some((test) => test.status === 'failed'),
).length;
const failed = report.numFailedTests + broken + Number(checksFailed);
const skipped = report.numPendingTests + (report.numTodoTests ?? 0);
for (const file of report.testResults) {
  for (const test of file.assertionResults) {
    if (test.status === 'failed') console.log(`FAILED ${test.fullName}`);
    if (test.status === 'pending' || test.status === 'skipped') console.log(`skipped: ${test.fullName}`);
  }
}
console.log(`${report.numPassedTests} passed, ${failed} failed, ${skipped} skipped`);
process.exitCode = failed === 0 && report.numPassedTests > 0 ? 0 : 1;
