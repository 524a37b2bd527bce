package org.pendula.compat;

import java.util.ArrayList;
import java.util.Arrays;
import tech.powerjob.common.enums.Protocol;
import tech.powerjob.worker.PowerJobWorker;
import tech.powerjob.worker.common.PowerJobWorkerConfig;
import tech.powerjob.worker.common.constants.StoreStrategy;

/** A worker as people run it: app, servers, port and tag from the command line; a heartbeat as often as it is told. */
public final class CompatWorker {
    private CompatWorker() {
    }

    public static void main(String[] args) throws Exception {
        PowerJobWorkerConfig config = new PowerJobWorkerConfig();
        config.setAppName(args[0]);
        config.setServerAddress(new ArrayList<>(Arrays.asList(args[1].split(","))));
        config.setPort(Integer.parseInt(args[2]));
        config.setTag(args[3]);
        config.setProtocol(Protocol.HTTP);
        config.setStoreStrategy(StoreStrategy.MEMORY);
        config.setHealthReportInterval(Integer.getInteger("compat.heartbeat", 10));
        PowerJobWorker worker = new PowerJobWorker(config);
        worker.init();
        System.out.println("worker is up");
    }
}
