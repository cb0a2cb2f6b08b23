// The Railway project: three safekeepers and a pageserver with a volume each, and a compute without one.
// Every service listens on [::], because private networks may be IPv6 only, and serves its health on $PORT.
import { defineRailway, github, preserve, project, service, volume } from "railway/iac";

const REPOSITORY = process.env.OGEL_REPOSITORY ?? "ogelbase/ogelbase";
const REGION = process.env.OGEL_REGION ?? "us-west2";
const NODES = [1, 2, 3];
const privateName = (name: string) => `${name}.railway.internal`;

export default defineRailway(() => {
  // The platform builds a Dockerfile's last target, which holds all programs; the start command chooses one.
  const built = {
    source: github(REPOSITORY, { branch: "main" }),
    build: { builder: "DOCKERFILE" as const, dockerfilePath: "Dockerfile" },
    healthcheck: "/readyz",
    healthcheckTimeout: 120,
  };
  const stored = { restartPolicyType: "ALWAYS" as const, drainingSeconds: 30, overlapSeconds: 0, sleepApplication: false, requiredMountPath: "/data" };

  const safekeepers = NODES.flatMap((node) => {
    const data = volume(`safekeeper-${node}-data`, { region: REGION, sizeMB: 5000 });
    const peers = NODES.filter((peer) => peer !== node).map((peer) => `${peer}=${privateName(`safekeeper-${peer}`)}:5454`);
    return [
      service(`safekeeper-${node}`, {
        ...built,
        deploy: { ...stored, startCommand: "safekeeper --data-dir /data --listen-pg [::]:5454 --listen-http [::]:7676" },
        volumeMounts: { "/data": data },
        env: { PORT: "7676", RAILWAY_RUN_UID: "0", OGEL_NODE_ID: String(node), OGEL_PEERS: peers.join(","), OGEL_ALLOW_UNAUTHENTICATED: "true" },
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
      RAILWAY_RUN_UID: "0",
      OGEL_NODE_ID: "1",
      OGEL_ALLOW_UNAUTHENTICATED: "true",
      OGEL_SAFEKEEPERS: NODES.map((node) => `${privateName(`safekeeper-${node}`)}:5454`).join(","),
    },
  });

  const compute = service("compute", {
    ...built,
    deploy: { startCommand: "compute-start", restartPolicyType: "ALWAYS" as const, drainingSeconds: 60, overlapSeconds: 0, sleepApplication: false },
    env: {
      PORT: "9090",
      OGEL_TENANT: "00000000000000000000000000000001",
      OGEL_TIMELINE: "00000000000000000000000000000001",
      OGEL_SAFEKEEPERS: NODES.map((node) => `${node}=${privateName(`safekeeper-${node}`)}:5454`).join(","),
      OGEL_SAFEKEEPERS_HTTP: NODES.map((node) => `${privateName(`safekeeper-${node}`)}:7676`).join(","),
      OGEL_PAGESERVER: `${privateName("pageserver")}:6400`,
      OGEL_PAGESERVER_HTTP: `${privateName("pageserver")}:9898`,
      OGEL_PASSWORD: preserve(),
    },
  });

  return project("ogelbase", { resources: [...safekeepers, pageserver, pages, compute] });
});
