/**
 * Entry of the daemon in the background. The workers are started before anything else is loaded: they and the
 * rest of the daemon load side by side.
 */

import { prestartWorkers } from '../transport/kernel/workers.ts';

/** The least number of workers that a mount has unless its user says otherwise. */
const LIKELY_THREADS = 2;

prestartWorkers(LIKELY_THREADS);
void import('./background.ts').then(async ({ serveInBackground }) => {
  process.exitCode = await serveInBackground();
});
