// The Railway project: three safekeepers and a pageserver with a volume each, a compute without one, and a bucket outside. docs/railway.md tells
// how it is put up and what each variable means.
// Every service listens on [::], because private networks may be IPv6 only, and serves its health on $PORT.
import { defineRailway, github, preserve, project, service, volume } from "railway/iac";

const REPOSITORY = process.env.OGEL_REPOSITORY ?? "ogelbase/ogelbase";
const REGION = process.env.OGEL_REGION ?? "us-west2";
const NODES = [1, 2, 3];
const privateName = (name: string) => `${name}.railway.internal`;
const list = (entry: (node: number) => string) => NODES.map(entry).join(",");
const safekeepersById = list((node) => `${node}=${privateName(`safekeeper-${node}`)}:5454`);

export default defineRailway((ctx) => {
  // The platform builds a Dockerfile's last target, which holds all programs; the start command chooses one.
  const built = {
    source: github(REPOSITORY, { branch: "main" }),
    build: { builder: "DOCKERFILE" as const, dockerfilePath: "Dockerfile" },
    healthcheck: "/readyz",
    healthcheckTimeout: 120,
    replicas: { [REGION]: 1 },
  };
  // Nothing looks at a service after its deployment, so a process that cannot go on ends, and is started again whatever its exit code.
  const running = { restartPolicyType: "ALWAYS" as const, overlapSeconds: 0, sleepApplication: false };
  const stored = { ...running, drainingSeconds: 30, requiredMountPath: "/data" };
  // The volume belongs to root, and an image's user is not.
  const onVolume = { RAILWAY_RUN_UID: "0" };
  const logs = { OGEL_LOG_FORMAT: "json" };
  // Set once for the project, as shared variables.
  const bucket = {
    OGEL_REMOTE: ctx.shared.OGEL_REMOTE,
    OGEL_S3_ENDPOINT: ctx.shared.OGEL_S3_ENDPOINT,
    OGEL_S3_ACCESS_KEY_ID: ctx.shared.OGEL_S3_ACCESS_KEY_ID,
    OGEL_S3_SECRET_ACCESS_KEY: ctx.shared.OGEL_S3_SECRET_ACCESS_KEY,
  };
  // The private network is this environment's own.
  const unauthenticated = { OGEL_ALLOW_UNAUTHENTICATED: "true" };

  const safekeepers = NODES.flatMap((node) => {
    const data = volume(`safekeeper-${node}-data`, { region: REGION, sizeMB: 5000 });
    return [
      service(`safekeeper-${node}`, {
        ...built,
        deploy: { ...stored, startCommand: "safekeeper --data-dir /data --listen-pg [::]:5454 --listen-http [::]:7676" },
        volumeMounts: { "/data": data },
        env: { PORT: "7676", OGEL_NODE_ID: String(node), OGEL_PEERS: safekeepersById, ...bucket, ...unauthenticated, ...onVolume, ...logs },
      }),
      data,
    ];
  });

  const pages = volume("pageserver-data", { region: REGION, sizeMB: 5000 });
  const pageserver = service("pageserver", {
    ...built,
    deploy: {
      ...stored,
      startCommand: "pageserver --data-dir /data --listen-pg [::]:6400 --listen-http [::]:9898 --template /usr/local/share/ogel/template.tar.zst",
    },
    volumeMounts: { "/data": pages },
    env: {
      PORT: "9898",
      OGEL_NODE_ID: "1",
      OGEL_SAFEKEEPERS: list((node) => `${privateName(`safekeeper-${node}`)}:5454`),
      // Leaves the volume room; what is not there is read from the bucket.
      OGEL_DISK_BUDGET_MB: "3500",
      OGEL_DISK_FREE_MB: "512",
      ...bucket,
      ...unauthenticated,
      ...onVolume,
      ...logs,
    },
  });

  const compute = service("compute", {
    ...built,
    deploy: { ...running, drainingSeconds: 60, startCommand: "compute-start" },
    tcp: [55432],
    env: {
      PORT: "9090",
      OGEL_TENANT: "00000000000000000000000000000001",
      OGEL_TIMELINE: "00000000000000000000000000000001",
      OGEL_SAFEKEEPERS: safekeepersById,
      OGEL_SAFEKEEPERS_HTTP: list((node) => `${privateName(`safekeeper-${node}`)}:7676`),
      OGEL_PAGESERVER: `${privateName("pageserver")}:6400`,
      OGEL_PAGESERVER_HTTP: `${privateName("pageserver")}:9898`,
      OGEL_PASSWORD: preserve(),
      OGEL_PG_SETTING: "shared_buffers=128MB",
      ...logs,
    },
  });

  return project("ogelbase", { resources: [...safekeepers, pageserver, pages, compute] });
});
