package org.pendula.compat;

import java.lang.reflect.Method;
import java.util.Map;
import java.util.TreeMap;
import tech.powerjob.client.PowerJobClient;
import tech.powerjob.common.enums.ExecuteType;
import tech.powerjob.common.enums.ProcessorType;
import tech.powerjob.common.enums.TimeExpressionType;
import tech.powerjob.common.request.http.SaveJobInfoRequest;
import tech.powerjob.common.request.query.JobInfoQuery;
import tech.powerjob.common.response.InstanceInfoDTO;
import tech.powerjob.common.response.JobInfoDTO;
import tech.powerjob.common.response.ResultDTO;

/**
 * What people do with the client, against a server that has a worker of the tag that is given; fails at the first call
 * that goes wrong. Prints how often it made each call: {@code calls saveJob 2}.
 */
public final class CompatClient {
    private static final Map<String, Integer> CALLS = new TreeMap<>();

    private CompatClient() {
    }

    public static void main(String[] args) throws Exception {
        PowerJobClient client = new PowerJobClient(args[0], args[1], args[2]);
        String name = "from-client-" + args[3];
        String tag = args[4];

        SaveJobInfoRequest request = request(name, "Echo", "some text", tag);
        Long job = good("saveJob", client.saveJob(request));
        request.setId(job);
        request.setInstanceRetryNum(1);
        check("saved again under the same id", job.equals(good("saveJob", client.saveJob(request))));
        JobInfoDTO fetched = good("fetchJob", client.fetchJob(job));
        check("its name", name.equals(fetched.getJobName()));
        check("its retries", fetched.getInstanceRetryNum() == 1);
        check("its type", fetched.getTimeExpressionType() == TimeExpressionType.API.getV());
        check("its workers", tag.equals(fetched.getDesignatedWorkers()));
        check("all jobs", !good("fetchAllJob", client.fetchAllJob()).isEmpty());
        JobInfoQuery query = new JobInfoQuery();
        query.setJobNameLike("client-" + args[3]);
        check("one of that name", good("queryJob", client.queryJob(query)).size() == 1);
        good("disableJob", client.disableJob(job));
        check("disabled", good("fetchJob", client.fetchJob(job)).getStatus() == 2);
        good("enableJob", client.enableJob(job));
        check("enabled", good("fetchJob", client.fetchJob(job)).getStatus() == 1);
        Long copy = good("copyJob", client.copyJob(job));
        good("deleteJob", client.deleteJob(copy));

        // Out and in again, as another job.
        SaveJobInfoRequest exported = good("exportJob", client.exportJob(job));
        check("without an id", exported.getId() == null);
        exported.setJobName(name + "-imported");
        Long imported = good("saveJob", client.saveJob(exported));
        JobInfoDTO again = good("fetchJob", client.fetchJob(imported));
        check("the same parameters", "some text".equals(again.getJobParams()));
        check("the same processor", fetched.getProcessorInfo().equals(again.getProcessorInfo()));
        check("the same retries", again.getInstanceRetryNum() == 1);

        // Now, and what it gives.
        Long instance = good("runJob", client.runJob(imported, "right now", 0));
        check("succeeded", await(client, instance, 5) == 5);
        InstanceInfoDTO info = good("fetchInstanceInfo", client.fetchInstanceInfo(instance));
        check("the same instance", instance.equals(info.getInstanceId()));
        check("its result: " + info.getResult(), "some text|right now".equals(info.getResult()));
        check("its tracker: " + info.getTaskTrackerAddress(), info.getTaskTrackerAddress().startsWith("127.0.0.1:"));
        if (good("runJob without parameters", client.runJob(imported)) == null) {
            throw new IllegalStateException("no id");
        }

        // With a delay.
        long before = System.currentTimeMillis();
        Long soon = good("runJob", client.runJob(imported, "soon", 1500));
        check("it waits", good("fetchInstanceStatus", client.fetchInstanceStatus(soon)) == 1);
        check("succeeded then", await(client, soon, 5) == 5);
        check("not too early", System.currentTimeMillis() - before >= 1500);

        // Canceled before, which works once; and run all the same later on.
        Long later = good("runJob", client.runJob(job, "later", 3_600_000));
        good("cancelInstance", client.cancelInstance(later));
        check("canceled", good("fetchInstanceStatus", client.fetchInstanceStatus(later)) == 9);
        bad("cancelInstance", client.cancelInstance(later));
        good("retryInstance", client.retryInstance(later));

        // Stopped while it runs; what is stopped cannot be stopped again.
        Long sleep = good("saveJob", client.saveJob(request(name + "-sleep", "Sleep", "600000", tag)));
        Long sleeping = good("runJob", client.runJob(sleep, null, 0));
        check("it runs", await(client, sleeping, 3) == 3);
        bad("retryInstance", client.retryInstance(sleeping));
        good("stopInstance", client.stopInstance(sleeping));
        check("stopped", await(client, sleeping, 10) == 10);
        bad("stopInstance", client.stopInstance(sleeping));

        ResultDTO<Integer> absent = client.fetchInstanceStatus(77L);
        count("fetchInstanceStatus");
        check("an absent instance", !absent.isSuccess() && absent.getMessage().contains("can't find instance"));
        queryInstance(client, imported);
        ResultDTO<Long> workflow = client.runWorkflow(1L);
        count("runWorkflow");
        check("workflows: " + workflow.getMessage(), !workflow.isSuccess());
        for (Map.Entry<String, Integer> call : CALLS.entrySet()) {
            System.out.println("calls " + call.getKey() + " " + call.getValue());
        }
        System.out.println("all good");
        System.exit(0);
    }

    private static SaveJobInfoRequest request(String name, String processor, String params, String tag) {
        SaveJobInfoRequest request = new SaveJobInfoRequest();
        request.setJobName(name);
        request.setJobDescription("made by a test");
        request.setJobParams(params);
        request.setTimeExpressionType(TimeExpressionType.API);
        request.setExecuteType(ExecuteType.STANDALONE);
        request.setProcessorType(ProcessorType.BUILT_IN);
        request.setProcessorInfo("org.pendula.compat.Processors$" + processor);
        request.setDesignatedWorkers(tag);
        return request;
    }

    /** Only clients of 5.1.1 have it. */
    private static void queryInstance(PowerJobClient client, Long job) throws Exception {
        for (Method method : PowerJobClient.class.getMethods()) {
            if (method.getName().equals("queryInstance")) {
                Object query = method.getParameterTypes()[0].getDeclaredConstructor().newInstance();
                query.getClass().getMethod("setJobIdEq", Long.class).invoke(query, job);
                ResultDTO<?> result = (ResultDTO<?>) method.invoke(client, query);
                Object page = good("queryInstance", result);
                Object total = page.getClass().getMethod("getTotalItems").invoke(page);
                check("instances of the job: " + total, ((Number) total).longValue() == 3);
            }
        }
    }

    /** Asks until the instance has that state, or one that is final. */
    private static int await(PowerJobClient client, Long instance, int wanted) throws Exception {
        long end = System.currentTimeMillis() + 90_000;
        while (true) {
            int status = good("fetchInstanceStatus", client.fetchInstanceStatus(instance));
            if (status == wanted || (status > 3 && wanted <= 5) || System.currentTimeMillis() > end) {
                return status;
            }
            Thread.sleep(100);
        }
    }

    private static <T> T good(String call, ResultDTO<T> result) {
        count(call);
        check(call + (result.isSuccess() ? "" : ": " + result.getMessage()), result.isSuccess());
        return result.getData();
    }

    private static void bad(String call, ResultDTO<?> result) {
        count(call);
        check(call + " is refused: " + result.getMessage(), !result.isSuccess());
    }

    private static void count(String call) {
        CALLS.merge(call.split(" ")[0], 1, Integer::sum);
    }

    private static void check(String what, boolean holds) {
        System.out.println((holds ? "ok    " : "WRONG ") + what);
        if (!holds) {
            System.exit(1);
        }
    }
}
