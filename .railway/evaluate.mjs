// Prints as JSON which resources railway.ts describes, without a login: what `railway config plan` would compare with the platform.
import { createRailwayContext } from "railway/iac";
import { build } from "esbuild";

const bundled = await build({
  entryPoints: ["railway.ts"],
  bundle: true,
  platform: "node",
  format: "esm",
  external: ["railway"],
  outfile: ".evaluated/railway.mjs",
});
if (bundled.errors.length > 0) process.exit(1);
const program = (await import("./.evaluated/railway.mjs")).default;
console.log(JSON.stringify(await program(createRailwayContext({ environment: "production" })), null, 2));
