"""What steers a generator to a language: a system text and its topics, openings, a request, refusals; written for this project.

One table a language, in the language itself: an English instruction to write Lao yields translated English questions.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Steering:
    """The texts of one language."""

    system: str
    """What the assistant is told about the user; `{topic}` is filled in."""
    request: str
    """Asks for one user's message, for interfaces that take whole messages only."""
    topics: tuple[str, ...]
    """What users ask about."""
    openings: tuple[str, ...]
    """First words of a user's message, for chat templates without a system text."""
    refusals: tuple[str, ...]
    """How an answer begins that is none, in lower case."""


STEERING: dict[str, Steering] = {
    "mya": Steering(
        "သင်သည် အကူအညီပေးတတ်သော လက်ထောက်ဖြစ်သည်။ အသုံးပြုသူသည် မြန်မာဘာသာဖြင့် ရေးပြီး {topic}အကြောင်း မေးသည်။ မြန်မာဘာသာဖြင့် ဖြေပါ။",
        "ထိုသို့သော လူတစ်ဦး ရေးပို့မည့် မေးခွန်းတစ်ခုကိုသာ မြန်မာဘာသာဖြင့် ရေးပါ။",
        ("ချက်ပြုတ်ခြင်း", "ကျန်းမာရေး", "ကျောင်းစာ", "အလုပ်နှင့် စာရေးခြင်း", "စိုက်ပျိုးရေး", "ခရီးသွားခြင်း", "သမိုင်းနှင့် ယဉ်ကျေးမှု", "ကွန်ပျူတာ"),
        ("ဘယ်လို", "ကျေးဇူးပြု၍", "ဘာကြောင့်"),
        ("တောင်းပန်ပါတယ်", "ဝမ်းနည်းပါတယ်", "ကျွန်ုပ်သည် ai"),
    ),
    "cmn": Steering(
        "你是一个乐于助人的助手。用户用中文提问，想了解{topic}方面的问题。请用中文回答。",
        "请写出这样一位用户会发来的一条消息，用中文，只写消息本身。",
        ("做饭", "健康", "学习", "工作与写作", "种植", "旅行", "历史与文化", "电脑"),
        ("请问", "怎么", "帮我"),
        ("抱歉", "对不起", "很遗憾", "作为一个人工智能", "作为ai"),
    ),
    "ind": Steering(
        "Kamu adalah asisten yang suka membantu. Pengguna menulis dalam bahasa Indonesia dan bertanya tentang {topic}. "
        "Jawablah dalam bahasa Indonesia.",
        "Tuliskan satu pesan yang mungkin dikirim pengguna seperti itu, dalam bahasa Indonesia. Tulis pesannya saja.",
        ("memasak", "kesehatan", "pelajaran sekolah", "pekerjaan dan surat-menyurat", "pertanian", "perjalanan",
         "sejarah dan budaya", "komputer"),
        ("Bagaimana", "Tolong", "Mengapa"),
        ("maaf,", "mohon maaf", "saya tidak bisa", "saya tidak dapat", "sebagai model bahasa", "sebagai ai"),
    ),
    "khm": Steering(
        "អ្នកគឺជាជំនួយការដែលចូលចិត្តជួយ។ អ្នកប្រើប្រាស់សរសេរជាភាសាខ្មែរ ហើយសួរអំពី{topic}។ សូមឆ្លើយជាភាសាខ្មែរ។",
        "សូមសរសេរសារមួយដែលអ្នកប្រើប្រាស់បែបនេះអាចផ្ញើមក ជាភាសាខ្មែរ។ សរសេរតែសារប៉ុណ្ណោះ។",
        ("ការធ្វើម្ហូប", "សុខភាព", "ការសិក្សា", "ការងារ និងការសរសេរ", "កសិកម្ម", "ការធ្វើដំណើរ", "ប្រវត្តិសាស្ត្រ និងវប្បធម៌", "កុំព្យូទ័រ"),
        ("តើ", "សូម", "ហេតុអ្វី"),
        ("សូមអភ័យទោស", "សូមទោស", "ខ្ញុំមិនអាច"),
    ),
    "lao": Steering(
        "ເຈົ້າແມ່ນຜູ້ຊ່ວຍທີ່ພ້ອມຊ່ວຍເຫຼືອ. ຜູ້ໃຊ້ຂຽນເປັນພາສາລາວ ແລະ ຖາມກ່ຽວກັບ{topic}. ກະລຸນາຕອບເປັນພາສາລາວ.",
        "ກະລຸນາຂຽນຂໍ້ຄວາມໜຶ່ງທີ່ຜູ້ໃຊ້ແບບນີ້ອາດຈະສົ່ງມາ ເປັນພາສາລາວ. ຂຽນແຕ່ຂໍ້ຄວາມເທົ່ານັ້ນ.",
        ("ການປຸງແຕ່ງອາຫານ", "ສຸຂະພາບ", "ການຮຽນ", "ວຽກງານ ແລະ ການຂຽນ", "ການກະເສດ", "ການເດີນທາງ", "ປະຫວັດສາດ ແລະ ວັດທະນະທຳ", "ຄອມພິວເຕີ"),
        ("ແນວໃດ", "ກະລຸນາ", "ເປັນຫຍັງ"),
        ("ຂໍອະໄພ", "ຂໍໂທດ", "ຂ້ອຍບໍ່ສາມາດ"),
    ),
    "zsm": Steering(
        "Anda ialah pembantu yang sedia menolong. Pengguna menulis dalam bahasa Melayu dan bertanya tentang {topic}. "
        "Jawab dalam bahasa Melayu.",
        "Tulis satu mesej yang mungkin dihantar oleh pengguna seperti itu, dalam bahasa Melayu. Tulis mesejnya sahaja.",
        ("masakan", "kesihatan", "pelajaran sekolah", "pekerjaan dan surat rasmi", "pertanian", "melancong",
         "sejarah dan budaya", "komputer"),
        ("Bagaimanakah", "Boleh tolong", "Kenapa"),
        ("maaf,", "minta maaf", "mohon maaf", "saya tidak boleh", "saya tidak dapat", "sebagai model bahasa"),
    ),
    "fil": Steering(
        "Ikaw ay katuwang na handang tumulong. Sumusulat ang gumagamit sa Filipino at nagtatanong tungkol sa {topic}. "
        "Sumagot sa Filipino.",
        "Isulat ang isang mensaheng maaaring ipadala ng ganitong tao, sa Filipino. Ang mensahe lamang ang isulat.",
        ("pagluluto", "kalusugan", "aralin sa paaralan", "trabaho at pagsulat", "pagsasaka", "paglalakbay",
         "kasaysayan at kultura", "kompyuter"),
        ("Paano", "Pakitulungan", "Bakit"),
        ("paumanhin", "pasensya na", "hindi ko magagawa", "hindi ako maaaring", "bilang isang ai"),
    ),
    "tam": Steering(
        "நீங்கள் உதவ விரும்பும் உதவியாளர். பயனர் தமிழில் எழுதி {topic} பற்றிக் கேட்கிறார். தமிழில் பதிலளிக்கவும்.",
        "அத்தகைய பயனர் அனுப்பக்கூடிய ஒரு செய்தியைத் தமிழில் எழுதவும். செய்தியை மட்டும் எழுதவும்.",
        ("சமையல்", "உடல்நலம்", "பள்ளிப் பாடங்கள்", "வேலை மற்றும் எழுத்து", "விவசாயம்", "பயணம்", "வரலாறு மற்றும் பண்பாடு", "கணினி"),
        ("எப்படி", "தயவுசெய்து", "ஏன்"),
        ("மன்னிக்கவும்", "மன்னிக்க வேண்டும்", "என்னால் முடியாது", "வருந்துகிறேன்"),
    ),
    "tha": Steering(
        "คุณเป็นผู้ช่วยที่ยินดีช่วยเหลือ ผู้ใช้เขียนเป็นภาษาไทยและถามเกี่ยวกับ{topic} โปรดตอบเป็นภาษาไทย",
        "เขียนข้อความหนึ่งข้อความที่ผู้ใช้เช่นนี้อาจส่งมา เป็นภาษาไทย เขียนเฉพาะข้อความเท่านั้น",
        ("การทำอาหาร", "สุขภาพ", "การเรียน", "การทำงานและการเขียน", "การเกษตร", "การเดินทาง", "ประวัติศาสตร์และวัฒนธรรม", "คอมพิวเตอร์"),
        ("ทำอย่างไร", "ช่วย", "ทำไม"),
        ("ขออภัย", "ขอโทษ", "ฉันไม่สามารถ", "ผมไม่สามารถ", "ในฐานะ ai"),
    ),
    "vie": Steering(
        "Bạn là trợ lý sẵn lòng giúp đỡ. Người dùng viết bằng tiếng Việt và hỏi về {topic}. Hãy trả lời bằng tiếng Việt.",
        "Hãy viết một tin nhắn mà người dùng như vậy có thể gửi, bằng tiếng Việt. Chỉ viết tin nhắn đó.",
        ("nấu ăn", "sức khỏe", "bài học ở trường", "công việc và viết lách", "trồng trọt", "du lịch",
         "lịch sử và văn hóa", "máy tính"),
        ("Làm thế nào", "Hãy giúp", "Tại sao"),
        ("xin lỗi", "rất tiếc", "tôi không thể", "là một mô hình ngôn ngữ"),
    ),
    "eng": Steering(
        "You are an assistant who likes to help. The user writes in English and asks about {topic}. Answer in English.",
        "Write one message that such a user might send, in English. Write the message only.",
        ("cooking", "health", "school lessons", "work and writing", "farming", "travel", "history and culture", "computers"),
        ("How", "Please", "Why"),
        ("sorry", "i'm sorry", "i am sorry", "i cannot", "i can't", "as an ai", "as a language model", "unfortunately, i"),
    ),
}  # fmt: skip
"""ISO 639-3 to its texts."""
