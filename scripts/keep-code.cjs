// Preloaded by cache-code.mjs into every process and thread of what was built: the code that V8 has made of the bundles of
// dist/ by the time that a thread ends is kept beside them.
'use strict';
const { renameSync, writeFileSync } = require('node:fs');
const { dirname, join } = require('node:path');
const vm = require('node:vm');
const { threadId } = require('node:worker_threads');

const dist = join(dirname(__dirname), 'dist');

vm.Script = class extends vm.Script {
  constructor(source, options) {
    super(source, options);
    const path = options?.filename;
    if (path === undefined || dirname(path) !== dist) return;
    process.on('exit', () => {
      const own = `${path}.${process.pid}.${threadId}`;
      writeFileSync(own, this.createCachedData());
      renameSync(own, `${path}.code`);
    });
  }
};
